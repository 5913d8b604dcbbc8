"""Holding a generation while another engine may take it over; see `Hold`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from airloom.errors import AirloomError, ConflictError, InvalidTaskError, explained
from device_agent.engine.adapters import Adapters
from device_agent.engine.chores import Chores
from device_agent.engine.departures import Departures
from device_agent.engine.generation import HandedOverError, HoldRefused
from device_agent.engine.hold import Hold
from device_agent.engine.job import Job
from device_agent.engine.scheduler import Scheduler
from device_agent.engine.sequence_state import SequenceState
from device_agent.engine.streams import Streams

log = logging.getLogger(__name__)


class Handover:
    """The holds of one engine: what is decided on an event loop is done on the engine's thread."""

    def __init__(
        self,
        scheduler: Scheduler[Job],
        streams: Streams,
        chores: Chores,
        departures: Departures,
        adapters: Adapters,
    ) -> None:
        self._scheduler = scheduler
        self._streams = streams
        self._chores = chores
        self._departures = departures
        self._adapters = adapters

    def hold_and_go_on(self, now_s: float) -> None:
        """Hold those for whom somebody asks it; let those go on whose lease has passed."""
        for job in self._scheduler.expired(now_s):
            log.warning("a generation was held for longer than its lease, and goes on here")
            self._go_on(job)
        for job in list(self._scheduler.running):
            # What waits is held once it has begun.
            if (lease_s := job.generation.lease_s) is not None:
                job.generation.lease_s = None
                self._hold(job, now_s + lease_s)

    def _hold(self, job: Job, until_s: float) -> None:
        try:
            if job.hold is not None:
                raise InvalidTaskError("the generation is being handed over already")
            state = export(job, self._adapters)
            self._streams.tell(job, time.monotonic())
        except Exception as error:
            self._streams.put(job.generation, HoldRefused(explained(error)))
            return
        job.hold = Hold(state, commit=self._ask_commit, roll_back=self._ask_roll_back)
        self._scheduler.park(job, until_s)
        self._streams.put(job.generation, job.hold)

    async def _ask_commit(self, hold: Hold, then: Callable[[], None] | None) -> None:
        await asyncio.wrap_future(self._chores.add(lambda: self._commit(hold, then)))

    def _ask_roll_back(self, hold: Hold) -> None:
        try:
            self._chores.add(lambda: self._roll_back(hold))
        except AirloomError:
            # The engine is closing: the generation has had its end.
            return

    def _commit(self, hold: Hold, then: Callable[[], None] | None) -> None:
        job = self._held_by(hold)
        if job is None:
            raise ConflictError("the hold has ended: the generation was not handed over")
        if then is not None:
            then()
        self._departures.leave(job, HandedOverError("the generation was handed over"))

    def _roll_back(self, hold: Hold) -> None:
        if (job := self._held_by(hold)) is not None:
            self._go_on(job)

    def _held_by(self, hold: Hold) -> Job | None:
        return next((job for job in self._scheduler.running if job.hold is hold), None)

    def _go_on(self, job: Job) -> None:
        job.hold = None
        self._scheduler.unpark(job)


def export(job: Job, adapters: Adapters) -> SequenceState:
    """All that another engine needs to go on with a job.

    Raises:
        InvalidTaskError: it has read images, which no state holds.
    """
    sequence, context = job.sequence, job.context.context
    if sequence.images:
        raise InvalidTaskError("a generation that has read images cannot be handed over")
    return SequenceState(
        model_sha256=sequence.model.description.sha256,
        layout=context.layout,
        adapter_sha256={use.name: adapters.get(use.name).sha256 for use in sequence.adapters.uses},
        request=sequence.request,
        tokens=tuple(sequence.tokens),
        prompt_tokens=sequence.prompt_tokens,
        position=sequence.position,
        draws=sequence.draws,
        generated=tuple(sequence.generated),
        scores=tuple(sequence.scores),
        memory=context.export_state(sequence.slot.index),
    )
