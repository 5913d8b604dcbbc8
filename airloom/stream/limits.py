"""How much may cross a stream, and wait for it."""

from __future__ import annotations

from pydantic import Field, model_validator

from airloom.settings_file import Settings

GRPC_FRAME_BYTES = 5
LARGEST_CHUNK_BYTES = 64 << 10


class StreamLimits(Settings):
    """Both ends should have the same: what one sends the other must be willing to take."""

    message_bytes: int = Field(
        16 << 20, ge=1 << 16, description="of one task or result; a larger one is refused unsent"
    )
    chunk_bytes: int = Field(
        16 << 10,
        ge=1 << 10,
        le=LARGEST_CHUNK_BYTES,
        description="a larger message goes in parts of this size: what a heartbeat may wait for",
    )
    unfinished_bytes: int = Field(
        64 << 20, description="of all the messages together whose parts are under way"
    )
    unfinished_messages: int = Field(256, ge=1, description="whose parts are under way")
    waiting_messages: int = Field(
        1024, ge=16, description="that may wait to be sent; whoever causes more loses the stream"
    )
    text_bytes: int = Field(4 << 20, ge=1 << 10, description="of one answer that is streamed")

    @model_validator(mode="after")
    def _room_for_one(self) -> StreamLimits:
        if self.unfinished_bytes < self.message_bytes:
            raise ValueError("unfinished_bytes must be at least message_bytes")
        return self
