"""A generation as seen from the event loop that asked for it."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Awaitable, Callable

from airloom.errors import AirloomError, CancelledTaskError, InvalidTaskError
from device_agent.engine.requests import Completion, Delta
from device_agent.engine.sequence_state import SequenceState

OnText = Callable[[str], Awaitable[None]]
"""Told each piece of text; the next comes when it is done."""

Event = Delta | Completion | SequenceState | AirloomError


class Generation:
    """Deltas as they come, then the completion.

    The engine's thread reads `cancelled` and `suspending`, and hands events over through the loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, stream: bool) -> None:
        self.loop = loop
        self.stream = stream
        self.cancelled = False
        self.suspending = False
        self._deltas: list[Delta] = []
        self._outcome: Completion | SequenceState | AirloomError | None = None
        self._changed = asyncio.Event()

    def cancel(self) -> None:
        """Stop before the next pass; nothing happens where it has ended."""
        self.cancelled = True

    def deliver(self, event: Event) -> None:
        """Take an event, on the event loop."""
        if isinstance(event, Delta):
            self._deltas.append(event)
        elif self._outcome is None:
            self._outcome = event
        self._changed.set()

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

    async def _end(self) -> Completion | SequenceState:
        while self._outcome is None:
            await self._changed.wait()
            if self._outcome is None:
                self._changed.clear()
        if isinstance(self._outcome, AirloomError):
            # What is raised remembers its frames, and they this: a cycle, were it the same object.
            raise copy.copy(self._outcome)
        return self._outcome

    async def completion(self) -> Completion:
        """Wait for the end; raises what ended it otherwise."""
        outcome = await self._end()
        if isinstance(outcome, SequenceState):
            raise CancelledTaskError("the generation was handed over")
        return outcome

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

    async def suspend(self) -> SequenceState:
        """Take the generation out of the engine, to be resumed in another.

        Raises:
            InvalidTaskError: it had ended already.
        """
        self.suspending = True
        outcome = await self._end()
        if isinstance(outcome, Completion):
            raise InvalidTaskError("the generation ended before it could be handed over")
        return outcome
