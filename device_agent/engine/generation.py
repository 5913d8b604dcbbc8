"""A generation as seen from the event loop that asked for it."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from airloom.errors import AirloomError, CancelledTaskError, InvalidTaskError
from device_agent.engine.hold import Hold
from device_agent.engine.requests import Completion, Delta
from device_agent.engine.sequence_state import SequenceState

OnText = Callable[[str], Awaitable[None]]
"""Told each piece of text; the next comes when it is done."""

_SUSPEND_LEASE_S = 60.0


class HandedOverError(CancelledTaskError):
    """The generation goes on in another engine."""


@dataclass(frozen=True, slots=True)
class HoldRefused:
    """A generation cannot be handed over, and goes on."""

    error: AirloomError


Outcome = Completion | AirloomError
Event = Delta | Hold | HoldRefused | Outcome


class Generation:
    """Deltas as they come, then the completion.

    The engine's thread reads `cancelled` and `lease_s`, and hands events over through the loop.
    `wake` tells it that one of them has changed: it may have nothing else to do.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, *, stream: bool, wake: Callable[[], None]
    ) -> None:
        self.loop = loop
        self.stream = stream
        self.cancelled = False
        self.lease_s: float | None = None
        """For how long it is to be held, where somebody asked for that."""
        self._wake = wake
        self._deltas: list[Delta] = []
        self._outcome: Outcome | None = None
        self._changed = asyncio.Event()
        self._holding: asyncio.Future[Hold] | None = None

    def cancel(self) -> None:
        """Stop before the next pass; nothing happens where it has ended."""
        if not self.cancelled and self._outcome is None:
            self.cancelled = True
            self._wake()

    def deliver(self, event: Event) -> None:
        """Take an event, on the event loop."""
        if isinstance(event, Delta):
            self._deltas.append(event)
        elif isinstance(event, Hold | HoldRefused):
            self._answer_hold(event)
            return
        elif self._outcome is None:
            self._outcome = event
            ended = InvalidTaskError("the generation ended before it could be handed over")
            self._answer_hold(HoldRefused(event if isinstance(event, AirloomError) else ended))
        self._changed.set()

    def _answer_hold(self, answer: Hold | HoldRefused) -> None:
        holding, self._holding = self._holding, None
        if holding is None or holding.done():
            # Whoever asked has left.
            if isinstance(answer, Hold):
                answer.roll_back()
        elif isinstance(answer, Hold):
            holding.set_result(answer)
        else:
            holding.set_exception(copy.copy(answer.error))

    def __aiter__(self) -> AsyncIterator[Delta]:
        return self._iterate()

    async def _iterate(self) -> AsyncIterator[Delta]:
        """Yield what has come since the last turn, in one piece: a slow reader gets fewer, longer."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            deltas, self._deltas = self._deltas, []
            if len(deltas) == 1:
                yield deltas[0]
            elif deltas:
                yield Delta(
                    "".join(delta.text for delta in deltas),
                    tuple(token for delta in deltas for token in delta.tokens),
                )
            if self._outcome is not None and not self._deltas:
                self._changed.set()
                return

    async def completion(self) -> Completion:
        """Wait for the end; raises what ended it otherwise."""
        while self._outcome is None:
            await self._changed.wait()
            if self._outcome is None:
                self._changed.clear()
        if isinstance(self._outcome, AirloomError):
            # What is raised remembers its frames, and they this: a cycle, were it the same object.
            raise copy.copy(self._outcome)
        return self._outcome

    async def follow(self, on_text: OnText | None = None) -> Completion:
        """Tell each piece of text as it comes, then return the completion.

        What comes while a piece is being told is told together, as the next one. Whatever ends the
        waiting, the caller's own cancellation included, ends the generation.
        """
        try:
            if on_text is not None:
                async for delta in self:
                    if delta.text:
                        await on_text(delta.text)
            return await self.completion()
        finally:
            self.cancel()

    async def hold(self, lease_s: float) -> Hold:
        """Stop before the next pass, keep the slot, and return the state to resume elsewhere.

        What is queued is held once it has begun. A stream is first told all that it was not told
        yet. Unless the hold is committed, the generation goes on here: when it is rolled back, or
        after `lease_s` seconds.

        Raises:
            InvalidTaskError: it has ended already, is being handed over, or has read images.
            AirloomError: what ended it meanwhile.
        """
        if self._outcome is not None:
            raise InvalidTaskError("the generation ended before it could be handed over")
        if self._holding is not None:
            raise InvalidTaskError("the generation is being handed over already")
        holding = self._holding = self.loop.create_future()
        self.lease_s = lease_s
        self._wake()
        try:
            hold: Hold = await holding
        except asyncio.CancelledError:
            # Another may ask, though the engine has not got to this one yet: `_answer_hold` lets what
            # nobody waits for go on.
            if self._holding is holding:
                self._holding = self.lease_s = None
            elif not holding.cancelled() and holding.exception() is None:
                # The hold came at the very moment that its asker left.
                holding.result().roll_back()
            raise
        return hold

    async def suspend(self) -> SequenceState:
        """Take the generation out of the engine, to be resumed in another; raises as `hold` does."""
        hold = await self.hold(_SUSPEND_LEASE_S)
        try:
            await hold.commit()
        finally:
            hold.roll_back()
        return hold.state
