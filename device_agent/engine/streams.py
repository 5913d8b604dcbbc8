"""Telling whoever follows a generation: what, when, and on which event loop."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Iterable

from device_agent.engine.generation import Event, Generation
from device_agent.engine.job import Job

_HEAD_START_S = 0.001
"""For the first piece of a lonely stream: whoever passes it on would wait for who decodes the next."""


class Streams:
    """The events that the engine's thread has to hand over, collected until it does so."""

    def __init__(self, interval_s: float) -> None:
        """What a stream says within `interval_s` after its last piece is told as one piece."""
        self._interval_s = interval_s
        self._outbox: list[tuple[Generation, Event]] = []
        self._began = False
        """Whether a stream has had its first piece since it was last looked at."""

    def due_s(self, jobs: Iterable[Job]) -> float:
        """When one of these streams may be told something again; infinity where none is followed."""
        told_s = (job.told_s for job in jobs if job.generation.stream)
        return min(told_s, default=math.inf) + self._interval_s

    def tell_if_due(self, job: Job, now_s: float) -> None:
        """Tell a stream what there is of its text, unless it was told something just now."""
        if job.generation.stream and now_s - job.told_s >= self._interval_s:
            self.tell(job, now_s)

    def tell(self, job: Job, now_s: float) -> None:
        """Tell a stream what there is of its text."""
        if job.generation.stream and (delta := job.sequence.take_delta()) is not None:
            self._began |= job.told_s == -math.inf
            job.told_s = now_s
            self._outbox.append((job.generation, delta))

    def tell_all(self, jobs: Iterable[Job]) -> None:
        """Tell these streams what has been kept back, now."""
        now_s = time.monotonic()
        for job in jobs:
            self.tell(job, now_s)
        self.send()

    def tell_rest(self, job: Job) -> None:
        """Tell a stream that is complete all that is left; may be empty."""
        if job.generation.stream:
            self._outbox.append((job.generation, job.sequence.take_last_delta()))

    def put(self, generation: Generation, event: Event) -> None:
        """Tell whoever asked, stream or not."""
        self._outbox.append((generation, event))

    def send(self) -> None:
        """Hand the events over, in one call for each event loop."""
        outbox, self._outbox = self._outbox, []
        while outbox:
            loop = outbox[0][0].loop
            mine = [event for event in outbox if event[0].loop is loop]
            outbox = [event for event in outbox if event[0].loop is not loop]
            # A loop that is closed has nobody waiting on it.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_deliver, mine)

    def give_head_start(self, changed: threading.Condition, *, lonely: bool) -> None:
        """Let a first piece get out before the next token is decoded, unless others wait for theirs.

        The event loop and gRPC's threads share processors and Python's lock with the engine's: without,
        a first token comes a millisecond later on two processors.
        """
        began, self._began = self._began, False
        if began and lonely:
            with changed:
                changed.wait(_HEAD_START_S)


def _deliver(events: list[tuple[Generation, Event]]) -> None:
    for generation, event in events:
        generation.deliver(event)
