"""How a job leaves: its slot is free, it is counted, and whoever asked is told, whatever fails."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from airloom.errors import AirloomError, explained
from device_agent.engine.job import Job
from device_agent.engine.placement import release
from device_agent.engine.requests import Completion
from device_agent.engine.scheduler import Scheduler
from device_agent.engine.statistics import EngineStatistics, Observer
from device_agent.engine.streams import Streams

log = logging.getLogger(__name__)


class Departures:
    """The only way out of the engine; each job goes it once."""

    def __init__(
        self,
        scheduler: Scheduler[Job],
        streams: Streams,
        statistics: EngineStatistics,
        observer: Observer | None,
    ) -> None:
        self._scheduler = scheduler
        self._streams = streams
        self._statistics = statistics
        self._observer = observer

    def fail(self, job: Job, error: Exception) -> None:
        """Let a job leave with what was raised for it: a defect is logged, and told by its type."""
        self.leave(job, explained(error))

    def leave(self, job: Job, outcome: Completion | AirloomError) -> None:
        """Let a job leave the scheduler, with its outcome."""
        self._scheduler.leave(job)
        self.finish(job, outcome)

    def finish(self, job: Job, outcome: Completion | AirloomError) -> None:
        """Free what a job had that has left the scheduler, and tell whoever asked."""
        job.hold = None
        with _logged("free a slot"):
            release(job)
        with _logged("free a grammar"):
            if job.sequence.grammar is not None:
                job.sequence.grammar.close()
        if isinstance(outcome, Completion):
            with _logged("observe a completion"):
                if self._observer is not None:
                    self._observer.completed(outcome)
        else:
            with _logged("tell a stream its last text"):
                self._streams.tell(job, time.monotonic())
        self._statistics.outcomes[_name(outcome)] += 1
        self._streams.put(job.generation, outcome)


def _name(outcome: Completion | AirloomError) -> str:
    if isinstance(outcome, Completion):
        return outcome.finish_reason
    return type(outcome).__name__


@contextmanager
def _logged(what: str) -> Iterator[None]:
    """Log what is raised, and go on: what comes after must be done."""
    try:
        yield
    except Exception:
        log.exception("could not %s", what)
