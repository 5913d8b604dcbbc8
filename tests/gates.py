"""What tests hold instead of hoping that something is slow, or fast: the engine, and the clock."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from device_agent.engine.context import Batch, Context


class Gate:
    """Before every pass through a model: open at first, or lets a counted number of passes through."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._left: int | None = None
        self._waiting = 0

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Make every engine of this process go through the gate."""
        decode = Context.decode

        def gated(context: Context, batch: Batch) -> Any:
            self._pass_through()
            return decode(context, batch)

        patch.setattr(Context, "decode", gated)

    def _pass_through(self) -> None:
        with self._changed:
            self._waiting += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._left != 0)
            self._waiting -= 1
            if self._left is not None:
                self._left -= 1

    def shut(self, after: int = 0) -> None:
        """Let so many passes through, and none after them."""
        with self._changed:
            self._left = after
            self._changed.notify_all()

    def let(self, passes: int) -> None:
        """Let so many more through a gate that is shut."""
        with self._changed:
            assert self._left is not None, "the gate is open"
            self._left += passes
            self._changed.notify_all()

    def open(self) -> None:
        """Let everything through from now on."""
        with self._changed:
            self._left = None
            self._changed.notify_all()

    def wait_until_held(self) -> None:
        """Return when a pass waits at the shut gate: all that it let through are over."""
        with self._changed:
            self._changed.wait_for(lambda: self._left == 0 and self._waiting > 0)

    async def held(self) -> None:
        """The same, without holding up the event loop."""
        await asyncio.to_thread(self.wait_until_held)


class Clock:
    """`time.monotonic` as everybody here reads it, event loops included; it can be put forward."""

    def __init__(self) -> None:
        self._ahead_s = 0.0

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Make this process read this clock."""
        read = time.monotonic
        patch.setattr(time, "monotonic", lambda: read() + self._ahead_s)

    @staticmethod
    def now_s() -> float:
        """What it shows."""
        return time.monotonic()

    def advance(self, duration_s: float) -> None:
        """Let time pass, at once."""
        self._ahead_s += duration_s
