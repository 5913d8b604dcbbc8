"""Large messages put together again from their parts, within limits."""

from __future__ import annotations

from typing import Generic, TypeVar

from google.protobuf.message import DecodeError

from airloom.errors import AirloomError, Status
from airloom.stream.limits import StreamLimits
from protos.airloom.v1 import fleet_pb2

M = TypeVar("M", fleet_pb2.ConnectRequest, fleet_pb2.ConnectResponse)


class StreamViolationError(AirloomError):
    """The other side does not keep to the protocol or its limits: the stream ends."""

    status = Status.INVALID_ARGUMENT


class MessageTooLargeError(AirloomError):
    """A message grew over the limit; its parts are dropped, the stream goes on."""

    status = Status.RESOURCE_EXHAUSTED

    def __init__(self, correlation_id: int, limit_bytes: int) -> None:
        self.correlation_id = correlation_id
        super().__init__(
            f"a message of more than {limit_bytes} bytes was sent in parts: that is the limit here"
        )


class Reassembly(Generic[M]):
    """The parts of one stream's incoming messages, by correlation id."""

    def __init__(self, kind: type[M], limits: StreamLimits) -> None:
        self._kind: type[M] = kind
        self._limits = limits
        self._parts: dict[int, bytearray] = {}
        self._dropped: set[int] = set()
        self._bytes = 0

    @property
    def held_bytes(self) -> int:
        """Bytes of messages whose last part has not come."""
        return self._bytes

    def feed(self, message: M) -> M | None:
        """Take a message or a part; return what is whole now, or None.

        Raises:
            MessageTooLargeError: this one is over the limit; its other parts will be ignored.
            StreamViolationError: too much is unfinished, or the parts are no message.
        """
        if not message.HasField("chunk"):
            return message
        key, chunk = message.correlation_id, message.chunk
        if chunk.withdrawn:
            self.drop(key)
            return None
        if key in self._dropped:
            if chunk.last:
                self._dropped.discard(key)
            return None
        parts = self._parts.get(key)
        if parts is None:
            if len(self._parts) + len(self._dropped) >= self._limits.unfinished_messages:
                raise StreamViolationError(
                    f"parts of {self._limits.unfinished_messages} messages are under way: "
                    "finish one before beginning another"
                )
            parts = self._parts[key] = bytearray()
        if len(parts) + len(chunk.data) > self._limits.message_bytes:
            self._forget(key)
            if not chunk.last:
                self._dropped.add(key)
            raise MessageTooLargeError(key, self._limits.message_bytes)
        if self._bytes + len(chunk.data) > self._limits.unfinished_bytes:
            raise StreamViolationError(
                f"unfinished messages hold more than {self._limits.unfinished_bytes} bytes"
            )
        parts += chunk.data
        self._bytes += len(chunk.data)
        if not chunk.last:
            return None
        self._forget(key)
        return self._whole(key, bytes(parts))

    def drop(self, correlation_id: int) -> None:
        """Forget the parts of a message whose sender has withdrawn it."""
        self._dropped.discard(correlation_id)
        self._forget(correlation_id)

    def _forget(self, key: int) -> None:
        self._bytes -= len(self._parts.pop(key, b""))

    def _whole(self, key: int, data: bytes) -> M:
        try:
            whole: M = self._kind.FromString(data)
        except DecodeError:
            raise StreamViolationError("parts make no message when put together") from None
        if whole.correlation_id != key or whole.HasField("chunk"):
            raise StreamViolationError("parts make a message of another correlation id, or parts")
        return whole
