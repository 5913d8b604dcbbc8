"""Work on text that somebody else wrote: off the event loop, on large stacks, within a time limit.

llama.cpp splits text by regular expressions whose depth of recursion grows with the text, and a
chat template is a program. Neither may end the process or hold up the event loop.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from airloom.errors import (
    AirloomError,
    CancelledTaskError,
    DeadlineExceededError,
    InvalidTaskError,
    OverloadedError,
)

T = TypeVar("T")

STACK_BYTES = 256 << 20
"""Of address space: memory is taken as it is used, and given back when the thread ends."""
LIMIT_S = 10.0
_THREADS = 2
_WAITING = 64

_starting = threading.Lock()
"""Python sets the size of stacks for all threads to come: one at a time may change it."""


def start_thread(target: Callable[[], object], name: str) -> threading.Thread:
    """Start a daemon thread with a large stack.

    Raises:
        OverloadedError: the system has no room for one.
    """
    thread = threading.Thread(target=target, name=name, daemon=True)
    with _starting:
        before = threading.stack_size(STACK_BYTES)
        try:
            thread.start()
        except RuntimeError as error:
            raise OverloadedError(f"no thread for {name} can be had: {error}") from None
        finally:
            threading.stack_size(before)
    return thread


class _Job(Generic[T]):
    def __init__(self, what: str, work: Callable[[], T]) -> None:
        self.what = what
        self.future: Future[T] = Future()
        self.overdue = False
        """Whether it was running when its asker's patience ended."""
        self._work = work

    def run(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            self.future.set_result(self._work())
        except Exception as error:
            # Whatever fails is for whoever asked.
            self.future.set_exception(error)


class TextWork:
    """A few threads that live as long as there is work; what comes meanwhile waits its turn.

    Work past its limit cannot be stopped: its asker gets an error, and its thread is not used for
    others until it ends. Where all threads are taken so, more work is refused.
    """

    def __init__(
        self, *, threads: int = _THREADS, waiting: int = _WAITING, limit_s: float = LIMIT_S
    ) -> None:
        self._most_threads, self._most_waiting, self._limit_s = threads, waiting, limit_s
        self._lock = threading.Lock()
        self._threads: set[threading.Thread] = set()
        self._running: set[_Job[Any]] = set()
        self._waiting: deque[_Job[Any]] = deque()
        self._closing = False

    async def run(self, what: str, work: Callable[[], T], *, deadline_s: float | None = None) -> T:
        """Do the work on a thread; `what` names it in errors.

        Raises:
            OverloadedError: too much of it is going on.
            InvalidTaskError: it takes longer than the limit.
            DeadlineExceededError: the deadline (on time.monotonic()'s clock) passed.
        """
        job = _Job(what, work)
        self._submit(job)
        limit_s = self._limit_s
        if deadline_s is not None:
            limit_s = min(limit_s, max(0.0, deadline_s - time.monotonic()))
        future = asyncio.wrap_future(job.future)
        try:
            await asyncio.wait({future}, timeout=limit_s)
            if future.done():
                return future.result()
            job.overdue = job.future.running()
        finally:
            self._leave(job)
            future.cancel()
        raise self._too_long(what, began=job.overdue, deadline=limit_s < self._limit_s)

    def _too_long(self, what: str, *, began: bool, deadline: bool) -> AirloomError:
        if deadline:
            return DeadlineExceededError(f"the deadline passed before {what} was done")
        if began:
            return InvalidTaskError(f"{what} takes longer than {self._limit_s:g} s")
        return OverloadedError(f"{what} waited {self._limit_s:g} s for others; try again later")

    def _submit(self, job: _Job[Any]) -> None:
        with self._lock:
            if self._closing:
                raise CancelledTaskError("the engine is closing")
            stuck = sum(each.overdue and not each.future.done() for each in self._running)
            if stuck >= self._most_threads or len(self._waiting) >= self._most_waiting:
                raise OverloadedError(
                    f"{job.what} cannot begin: {len(self._waiting)} wait, and {stuck} of "
                    f"{self._most_threads} threads are past their limit; try again later"
                )
            if len(self._running) >= self._most_threads:
                self._waiting.append(job)
                return
            self._running.add(job)
            try:
                self._threads.add(start_thread(lambda: self._serve(job), job.what))
            except OverloadedError:
                self._running.discard(job)
                raise

    def _serve(self, first: _Job[Any]) -> None:
        job: _Job[Any] | None = first
        while job is not None:
            job.run()
            with self._lock:
                self._running.discard(job)
                job = self._waiting.popleft() if self._waiting else None
                if job is None:
                    self._threads.discard(threading.current_thread())
                else:
                    self._running.add(job)

    def _leave(self, job: _Job[Any]) -> None:
        """Nobody waits for the job any more: its place in the queue is free."""
        with self._lock:
            if job in self._waiting:
                self._waiting.remove(job)

    def close(self) -> None:
        """Refuse what comes, and wait for what runs, up to the limit: it may be using the model."""
        with self._lock:
            self._closing = True
            waiting, self._waiting = self._waiting, deque()
            threads = list(self._threads)
        for job in waiting:
            job.future.cancel()
        ends_s = time.monotonic() + self._limit_s
        for thread in threads:
            thread.join(max(0.0, ends_s - time.monotonic()))


def run_within(what: str, work: Callable[[], T], limit_s: float = LIMIT_S) -> T:
    """Do the work on a thread with a large stack, and wait for it, without an event loop.

    Raises:
        InvalidTaskError: it takes longer than the limit.
    """
    job = _Job(what, work)
    start_thread(job.run, what).join(limit_s)
    if not job.future.done():
        raise InvalidTaskError(f"{what} takes longer than {limit_s:g} s")
    return job.future.result()
