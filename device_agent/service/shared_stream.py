"""One answer's stream, told to several followers; each reads at its own pace."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from dataclasses import dataclass

from device_agent.answering import AnswerStream


@dataclass(frozen=True, slots=True)
class _Event:
    """What was told: a piece of text, or why the text so far does not count."""

    text: str
    set_aside: bool = False

    async def tell(self, stream: AnswerStream) -> None:
        if self.set_aside:
            await stream.set_aside(self.text)
        else:
            await stream.text(self.text)


class SharedStream:
    """Takes what an answer's stream is told, and tells it to whoever follows, from the beginning.

    It holds at most `capacity` characters of events. The writer waits for the fastest follower, as
    it would for a single one. Whoever joins after the first events were dropped, or falls so far
    behind, is told no more here, and has to be told the whole text from the result.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._events: deque[_Event] = deque()
        self._dropped = 0
        self._size = 0
        self._positions: dict[int, int] = {}
        """Of each follower: how many events it was told."""
        self._ids = itertools.count()
        self._ended = False
        self._changed = asyncio.Event()

    async def text(self, text: str) -> None:
        await self._add(_Event(text))

    async def set_aside(self, reason: str) -> None:
        await self._add(_Event(reason, set_aside=True))

    def end(self) -> None:
        """Say that nothing more is told."""
        self._ended = True
        self._notify()

    def join(self) -> int:
        """Take note of a follower: from now on the writer does not run ahead of it."""
        follower = next(self._ids)
        self._positions[follower] = 0
        return follower

    def leave(self, follower: int) -> None:
        """Take no more note of a follower."""
        del self._positions[follower]
        self._notify()

    async def tell(self, follower: int, stream: AnswerStream) -> bool:
        """Tell a follower what is held from the beginning, and what comes; return whether that was all."""
        while (position := self._positions[follower]) >= self._dropped:
            if position < self._told():
                await self._events[position - self._dropped].tell(stream)
                self._positions[follower] = position + 1
                self._notify()
            elif self._ended:
                return True
            else:
                await self._changed.wait()
        return False

    def _told(self) -> int:
        return self._dropped + len(self._events)

    async def _add(self, event: _Event) -> None:
        self._events.append(event)
        self._size += len(event.text)
        while self._size > self._capacity and len(self._events) > 1:
            self._size -= len(self._events.popleft().text)
            self._dropped += 1
        end = self._told()
        self._notify()
        while self._positions and max(self._positions.values()) < end:
            await self._changed.wait()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
