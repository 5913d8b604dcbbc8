"""What others have the engine's thread do between two passes."""

from __future__ import annotations

import copy
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from airloom.errors import AirloomError

T = TypeVar("T")


class Chores:
    """A queue of functions; whatever they raise is for whoever asked, and for nobody else."""

    def __init__(self, changed: threading.Condition) -> None:
        """`changed` is notified of each chore."""
        self._changed = changed
        self.pending: deque[Callable[[], None]] = deque()
        self._closed: AirloomError | None = None

    def add(self, work: Callable[[], T]) -> Future[T]:
        """Have something done; from any thread.

        Raises:
            AirloomError: what the queue was closed with.
        """
        future: Future[T] = Future()

        def chore() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(work())
            except Exception as error:
                future.set_exception(error)

        self._append(chore)
        return future

    def repeat(self, turn: Callable[[], bool]) -> None:
        """Have something done again and again, as long as it says so; from any thread.

        It raises nothing; others have their turns, and there are passes, in between.

        Raises:
            AirloomError: what the queue was closed with.
        """

        def chore() -> None:
            if turn():
                self.pending.append(chore)

        self._append(chore)

    def _append(self, chore: Callable[[], None]) -> None:
        with self._changed:
            if self._closed is not None:
                raise copy.copy(self._closed)
            self.pending.append(chore)
            self._changed.notify()

    def do_next(self) -> None:
        """Do the one that has waited longest."""
        self.pending.popleft()()

    def close(self, reason: AirloomError) -> None:
        """Take no more, but do what was asked for: somebody waits for it."""
        with self._changed:
            self._closed = reason
        while self.pending:
            self.do_next()
