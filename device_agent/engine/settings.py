"""How much an engine takes on."""

from __future__ import annotations

from dataclasses import dataclass

from device_agent.engine.context import KeyValueType


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How much an engine takes on."""

    threads: int
    parallel: int = 4
    """Generations at once."""
    context_tokens: int = 0
    """Of each generation; 0 is what the model was trained with."""
    batch_tokens: int = 512
    """Of one pass."""
    queue_length: int = 64
    """Requests that wait while all places are taken."""
    key_value_type: KeyValueType = "f16"
    stall_s: float = 0.5
    """For how long reading a prompt may hold up running generations."""
    draft_tokens: int = 4
    """Proposed at a time, where there is a draft model."""
    stream_interval_s: float = 0.0
    """What a stream says within this time after its last piece is told together, as one piece."""
    contexts: int = 1
    """With more than one, sets of adapters get one each: changing them costs nothing, but memory."""
    embeddings: bool = True
    """Whether texts are embedded too, in a context of their own."""
