"""A generation on its way through the engine."""

from __future__ import annotations

import math
from dataclasses import dataclass

from device_agent.engine.adapter_contexts import AdapterContext
from device_agent.engine.generation import Generation
from device_agent.engine.hold import Hold
from device_agent.engine.scheduler import Group
from device_agent.engine.sequence import Sequence


@dataclass(eq=False)
class Job:
    """A sequence, who asked for it, and the context that it is decoded in."""

    generation: Generation
    sequence: Sequence
    context: AdapterContext
    memory: bytes | None = None
    """Keys and values of a generation that was handed over."""
    told_s: float = -math.inf
    """When its stream was told something last."""
    hold: Hold | None = None
    """While another engine may be about to take it over."""

    @property
    def group(self) -> Group:
        """What a pass can hold together: one context, one set of adapters."""
        return self.context.number, self.sequence.set_in_use.key

    @property
    def deadline_s(self) -> float | None:
        return self.sequence.request.deadline_s

    @property
    def cancelled(self) -> bool:
        return self.generation.cancelled

    @property
    def suspending(self) -> bool:
        return self.generation.lease_s is not None

    def late(self, now_s: float) -> bool:
        deadline_s = self.sequence.request.deadline_s
        return deadline_s is not None and now_s >= deadline_s

    def interrupted(self, now_s: float) -> bool:
        """Whether somebody or the clock wants it to stop."""
        generation = self.generation
        return generation.cancelled or generation.lease_s is not None or self.late(now_s)
