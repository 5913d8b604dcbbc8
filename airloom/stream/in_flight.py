"""How much work may be under way for one peer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from airloom.errors import OverloadedError


class InFlight:
    """Counts tasks and their bytes, and refuses what would be too much."""

    def __init__(self, tasks: int, size_bytes: int, who: str) -> None:
        """`who` begins the refusal's sentence: "board-a has been handed"."""
        self._most_tasks, self._most_bytes, self._who = tasks, size_bytes, who
        self._tasks = self._bytes = 0

    @contextlib.contextmanager
    def admit(self, size_bytes: int) -> Iterator[None]:
        """Count a task while this block runs; raises as `enter` does."""
        self.enter(size_bytes)
        try:
            yield
        finally:
            self.leave(size_bytes)

    def enter(self, size_bytes: int) -> None:
        """Count a task until it leaves.

        Raises:
            OverloadedError: there are too many, or they hold too much.
        """
        if self._tasks >= self._most_tasks:
            raise OverloadedError(f"{self._who} {self._tasks} tasks already, which is the most")
        if self._bytes + size_bytes > self._most_bytes:
            raise OverloadedError(
                f"{self._who} tasks of {self._bytes} bytes already: with {size_bytes} more it "
                f"would be over {self._most_bytes}"
            )
        self._tasks += 1
        self._bytes += size_bytes

    def leave(self, size_bytes: int) -> None:
        """Count a task no more."""
        self._tasks -= 1
        self._bytes -= size_bytes
