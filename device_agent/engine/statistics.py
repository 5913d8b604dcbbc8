"""What an engine counts while it runs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol

from device_agent.engine.requests import Completion


@dataclass
class EngineStatistics:
    """Totals since the engine began; written by its thread, read by anybody."""

    passes: int = 0
    pass_seconds: float = 0.0
    passes_by_sequences: Counter[int] = field(default_factory=Counter)
    """How many passes had so many sequences in them."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Prompt tokens that did not have to be read again."""
    generated_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    adapter_switches: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    """Requests by how they ended: end, stop, length, or the error's class."""
    waiting: int = 0
    running: int = 0


class Observer(Protocol):
    """Told of every completion, on the engine's thread: must be quick."""

    def completed(self, completion: Completion) -> None: ...
