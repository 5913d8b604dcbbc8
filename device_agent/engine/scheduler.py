"""Who waits, who runs, and whose turn it is. Knows no model: only what `Member` says of a job.

Laws that hold whatever comes and goes: first come, first served; never more than `parallel` jobs run;
every job that entered leaves exactly once; every group that runs has its turn within
`TURN_PASSES` x `parallel` passes.
"""

from __future__ import annotations

import copy
import itertools
import math
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from airloom.errors import (
    AirloomError,
    CancelledTaskError,
    DeadlineExceededError,
    OverloadedError,
)

Group = tuple[int, int]
"""What a pass can hold together: the number of a context, and the key of a set of adapters."""

TURN_PASSES = 8
"""How long a group goes on, once its adapters were applied, while others wait."""


class Member(Protocol):
    """What the scheduler knows of a job."""

    @property
    def group(self) -> Group: ...

    @property
    def deadline_s(self) -> float | None: ...

    @property
    def cancelled(self) -> bool: ...

    @property
    def suspending(self) -> bool:
        """Whether somebody asks that it stand still, once it runs."""
        ...


M = TypeVar("M", bound=Member)


class Scheduler(Generic[M]):
    """The queue and the running jobs; `enter` may be called by any thread, all else by the engine's."""

    def __init__(self, *, parallel: int, queue_length: int, changed: threading.Condition) -> None:
        """`changed` is notified whenever somebody enters."""
        self._parallel = parallel
        self._queue_length = queue_length
        self._changed = changed
        self.waiting: deque[M] = deque()
        self.running: list[M] = []
        self._parked: dict[M, float] = {}
        """Running jobs that stand still, and until when."""
        self._closed: AirloomError | None = None
        self._turn: Group | None = None
        self._passes = 0
        self._turn_ends = 0
        self._arrivals = itertools.count()
        self._queued: dict[Group, int] = {}
        """Of each group that runs, when it came or had its last turn, as a number that grows."""

    @property
    def active(self) -> list[M]:
        """The running jobs that do not stand still."""
        if not self._parked:
            return self.running
        return [job for job in self.running if job not in self._parked]

    @property
    def full(self) -> bool:
        return len(self.running) >= self._parallel

    def enter(self, job: M) -> None:
        """Queue a job.

        Raises:
            OverloadedError: the queue is full.
            AirloomError: what the scheduler was closed with.
        """
        with self._changed:
            if self._closed is not None:
                # What is raised remembers its frames: not the same object for all.
                raise copy.copy(self._closed)
            free = self._parallel - len(self.running)
            if len(self.waiting) - free >= self._queue_length:
                raise OverloadedError(
                    f"{self._queue_length} generations are queued already; try again later"
                )
            self.waiting.append(job)
            self._changed.notify()

    def admit(self) -> M | None:
        """Let the first in the queue run, if there is a place."""
        with self._changed:
            if not self.waiting or self.full:
                return None
            job = self.waiting.popleft()
            self.running.append(job)
            return job

    def order(self, key: Callable[[M], int]) -> None:
        """Sort the running jobs: in this order they come into a pass."""
        self.running.sort(key=key)

    def leave(self, job: M) -> None:
        """Forget a job, wherever it is; ValueError where it has left before."""
        with self._changed:
            self._parked.pop(job, None)
            if job in self.running:
                self.running.remove(job)
            else:
                self.waiting.remove(job)

    def close(self, reason: AirloomError) -> list[M]:
        """Let nobody in any more, who gets `reason` instead; return those who were there."""
        with self._changed:
            self._closed = reason
            leaving = [*self.running, *self.waiting]
            self.running.clear()
            self.waiting.clear()
            self._parked.clear()
        return leaving

    def unwanted(self, now_s: float) -> list[tuple[M, AirloomError]]:
        """Jobs that nobody waits for any more, and why; they have yet to leave."""
        with self._changed:
            # Others may enter meanwhile.
            present = [*self.running, *self.waiting]
        found: list[tuple[M, AirloomError]] = []
        for job in present:
            if job.cancelled:
                found.append((job, CancelledTaskError("the generation was cancelled")))
            elif job.deadline_s is not None and now_s >= job.deadline_s:
                late = "the deadline passed before the generation was done"
                found.append((job, DeadlineExceededError(late)))
        return found

    def park(self, job: M, until_s: float) -> None:
        """Let a running job stand still, keeping its place, for no longer than that."""
        self._parked[job] = until_s

    def unpark(self, job: M) -> None:
        """Let a job go on that stood still."""
        del self._parked[job]

    def expired(self, now_s: float) -> list[M]:
        """The jobs that have stood still long enough."""
        return [job for job, until_s in self._parked.items() if now_s >= until_s]

    def idle_s(self, now_s: float) -> float:
        """For how long there is nothing to do unless somebody comes; 0 where there is something."""
        if len(self.running) > len(self._parked) or (self.waiting and not self.full):
            return 0.0
        ends_s = math.inf
        for job in (*self.running, *self.waiting):
            if job.cancelled:
                return 0.0
            if job.suspending and job in self.running:
                return 0.0
            if job.deadline_s is not None:
                ends_s = min(ends_s, job.deadline_s)
        return max(0.0, min(ends_s, *self._parked.values(), math.inf) - now_s)

    def next_group(self) -> list[M]:
        """The jobs of the group whose turn it is, for one pass; empty where all stand still."""
        active = self.active
        self._passes += 1
        groups = dict.fromkeys(job.group for job in active)
        if len(groups) <= 1:
            self._turn = next(iter(groups), None)
            self._queued.clear()
            return list(active)
        self._queued = {group: self._arrival(group) for group in groups}
        if self._turn not in groups or self._passes >= self._turn_ends:
            self._turn = min(groups, key=self._queued.__getitem__)
            self._queued[self._turn] = next(self._arrivals)
        return [job for job in active if job.group == self._turn]

    def _arrival(self, group: Group) -> int:
        known = self._queued.get(group)
        return next(self._arrivals) if known is None else known

    def keep_turn(self) -> None:
        """Let the present group go on for some passes: changing to it has cost something."""
        self._turn_ends = self._passes + TURN_PASSES
