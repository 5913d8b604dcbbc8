"""Runs that a caller can join: the same idempotency key with the same content runs once."""

from __future__ import annotations

import asyncio
import hashlib
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from airloom.concurrency import within
from airloom.errors import (
    CancelledTaskError,
    ConflictError,
    DeadlineExceededError,
    OverloadedError,
)
from device_agent.answering import AnswerStream
from device_agent.service.kept_results import KeepLimits, KeptResults
from device_agent.service.shared_stream import SharedStream
from protos.airloom.v1 import task_pb2

STREAM_CHARACTERS = 64 << 10
"""Of a run's text that is held for those who join it later."""
RUNNING_PER_CALLER = 1024
"""Runs with a key that a caller may have at once."""

_LATE_S = 0.05
"""After a deadline: whatever kept to it can say more of what happened."""

T = TypeVar("T")
OnStarted = Callable[[str], Awaitable[None]]
"""Is told the run's id before anything else."""


async def by_deadline_at_last(work: Awaitable[T], deadline_s: float | None) -> T:
    """Wait for work that keeps to a deadline by itself; raise DeadlineExceededError where it does not.

    An engine whose pass takes long, for one, looks at deadlines only after it.
    """
    try:
        return await within(work, _patience_s(deadline_s))
    except asyncio.TimeoutError:
        raise DeadlineExceededError("the deadline passed before the answer was complete") from None


class Work(Protocol):
    """Does the work of a run, by a deadline on time.monotonic()'s clock; tells a stream of it."""

    def __call__(
        self, run_id: str, deadline_s: float | None, stream: AnswerStream | None
    ) -> Awaitable[task_pb2.TaskResult]: ...


def content_digest(task: task_pb2.Task, target: str = "") -> bytes:
    """Digest what a task asks: all of it but its label, key, deadline and trace context."""
    content = task_pb2.Task()
    content.CopyFrom(task)
    for field in ("task_id", "idempotency_key", "trace_context"):
        content.ClearField(field)
    content.budget.ClearField("deadline_ms")
    hashed = hashlib.sha256(content.SerializeToString(deterministic=True))
    hashed.update(b"\0" + target.encode())
    return hashed.digest()


def new_run_id() -> str:
    """Mint the id of a run; nobody can guess another's."""
    return uuid.uuid4().hex


class _Follower:
    """Whoever asked for a run: what it is told, and whether it was told any text that counts."""

    def __init__(self, stream: AnswerStream | None, on_started: OnStarted | None) -> None:
        self.stream = stream
        self._on_started = on_started
        self._told = False

    async def text(self, text: str) -> None:
        assert self.stream is not None
        self._told = True
        await self.stream.text(text)

    async def set_aside(self, reason: str) -> None:
        if self.stream is not None and self._told:
            self._told = False
            await self.stream.set_aside(reason)

    async def started(self, run_id: str) -> None:
        if self._on_started is not None:
            await self._on_started(run_id)

    async def ended(self, result: task_pb2.TaskResult) -> None:
        """Tell the answer's text in one piece where it was not told while it was written."""
        if self.stream is not None and not self._told and result.answer.text:
            await self.stream.text(result.answer.text)


@dataclass(eq=False)
class _Run:
    """Work under way, and how many follow it."""

    run_id: str
    digest: bytes
    deadline_s: float | None
    stream: SharedStream | None
    work: asyncio.Future[task_pb2.TaskResult]
    grace_s: float = 0.0
    grace: asyncio.TimerHandle | None = None
    """Since the last follower was lost."""
    followers: int = 0

    def join(self, follower: _Follower) -> int | None:
        """Count a follower; return what the stream knows it by, where it is told one."""
        self.followers += 1
        if self.stream is None or follower.stream is None:
            return None
        return self.stream.join()

    def leave(self, joined: int | None) -> None:
        """Count a follower no more."""
        self.followers -= 1
        if joined is not None and self.stream is not None:
            self.stream.leave(joined)

    def end_grace(self) -> None:
        """Forget how long ago a follower was lost."""
        if self.grace is not None:
            self.grace.cancel()
            self.grace = None

    async def tell(self, follower: _Follower, joined: int | None) -> task_pb2.TaskResult:
        """Tell a follower all there is to tell; return its own copy of the result."""
        await follower.started(self.run_id)
        if (
            joined is not None
            and self.stream is not None
            and not await self.stream.tell(joined, follower)
        ):
            await follower.set_aside("this call read so slowly that text was left out: all follows")
        await asyncio.wait({self.work})
        if self.work.cancelled():
            raise CancelledTaskError("the run was cancelled")
        result = task_pb2.TaskResult()
        result.CopyFrom(self.work.result())
        await follower.ended(result)
        return result


class IdempotentRuns:
    """Runs work; what has an idempotency key runs once for each caller and key.

    A failure is told to all who follow and is not kept: asking again tries again.
    """

    def __init__(
        self,
        limits: KeepLimits | None = None,
        *,
        stream_characters: int = STREAM_CHARACTERS,
        running_per_caller: int = RUNNING_PER_CALLER,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock` says how old kept results are."""
        self._kept = KeptResults(limits or KeepLimits(), clock)
        self._stream_characters = stream_characters
        self._running_per_caller = running_per_caller
        self._running: dict[str, dict[str, _Run]] = {}

    async def run(
        self,
        caller: str,
        task: task_pb2.Task,
        work: Work,
        *,
        deadline_s: float | None = None,
        stream: AnswerStream | None = None,
        on_started: OnStarted | None = None,
        target: str = "",
        grace_s: float = 0.0,
    ) -> task_pb2.TaskResult:
        """Do the work; or join the caller's run of the same key and content, or return its result.

        The work goes on while anybody follows it, and `grace_s` longer, so that whoever lost its
        connection may come back. Each follower has its own deadline and leaves when cancelled. Its
        stream is told the text from the beginning; where that is not held any more, or was not
        streamed, it is told the whole text at the end. `target` names who is to do the work, where
        that is part of what was asked.

        Raises:
            ConflictError: the caller used the key for other content.
            OverloadedError: the caller has too many runs with keys at once.
            DeadlineExceededError: the deadline passed first.
            AirloomError: whatever the work raised.
        """
        key = task.idempotency_key
        if not key:
            run_id = new_run_id()
            if on_started is not None:
                await on_started(run_id)
            return await by_deadline_at_last(work(run_id, deadline_s, stream), deadline_s)
        digest = content_digest(task, target)
        follower = _Follower(stream, on_started)
        if (kept := self._kept.get(caller, key)) is not None:
            _require_same(key, kept.digest, digest)
            result = task_pb2.TaskResult.FromString(kept.result)
            await follower.started(kept.run_id)
            await follower.ended(result)
        else:
            result = await self._join(
                caller, key, digest, work, follower, deadline_s, grace_s=grace_s
            )
        result.task_id = task.task_id
        return result

    def withdraw(self, caller: str, key: str) -> None:
        """Stop a run as soon as nobody follows it, without its grace."""
        run = self._running.get(caller, {}).get(key)
        if run is not None:
            run.grace_s = 0.0
            self._stop_unless_followed(caller, key, run)

    async def _join(
        self,
        caller: str,
        key: str,
        digest: bytes,
        work: Work,
        follower: _Follower,
        deadline_s: float | None,
        *,
        grace_s: float,
    ) -> task_pb2.TaskResult:
        while True:
            run = self._running.get(caller, {}).get(key)
            if run is None:
                run = self._start(
                    caller, key, digest, work, deadline_s, follower.stream is not None
                )
            _require_same(key, run.digest, digest)
            run.grace_s = max(run.grace_s, grace_s)
            try:
                return await self._follow(caller, key, run, follower, deadline_s)
            except DeadlineExceededError:
                # Whoever began the run may have had less time than this follower has.
                if not run.work.done() or not _is_later(deadline_s, run.deadline_s):
                    raise
            await follower.set_aside("the run that this call had joined reached its deadline")

    def _start(
        self,
        caller: str,
        key: str,
        digest: bytes,
        work: Work,
        deadline_s: float | None,
        streamed: bool,
    ) -> _Run:
        count = len(self._running.get(caller, {}))
        if count >= self._running_per_caller:
            raise OverloadedError(
                f"this caller has {count} runs with an idempotency_key under way, which is the "
                "most: wait for one of them"
            )
        run_id = new_run_id()
        stream = SharedStream(self._stream_characters) if streamed else None
        working = asyncio.ensure_future(work(run_id, deadline_s, stream))
        run = _Run(run_id, digest, deadline_s, stream, working)
        self._running.setdefault(caller, {})[key] = run
        working.add_done_callback(lambda _: self._ended(caller, key, run))
        return run

    async def _follow(
        self, caller: str, key: str, run: _Run, follower: _Follower, deadline_s: float | None
    ) -> task_pb2.TaskResult:
        # Before the work's first step: the stream must not run ahead of who began it.
        joined = run.join(follower)
        telling = asyncio.ensure_future(run.tell(follower, joined))
        try:
            await asyncio.wait({telling}, timeout=_patience_s(deadline_s))
            if not telling.done():
                raise DeadlineExceededError("the deadline passed before the answer was complete")
            return telling.result()
        finally:
            run.leave(joined)
            telling.cancel()
            run.end_grace()
            if run.grace_s > 0 and not run.work.done():
                run.grace = asyncio.get_running_loop().call_later(
                    run.grace_s, self._stop_unless_followed, caller, key, run
                )
            else:
                self._stop_unless_followed(caller, key, run)
            await asyncio.gather(telling, return_exceptions=True)

    def _stop_unless_followed(self, caller: str, key: str, run: _Run) -> None:
        if run.followers == 0 and not run.work.done():
            # Whoever comes from now on begins anew instead of joining what is ending.
            self._forget(caller, key, run)
            run.work.cancel()

    def _ended(self, caller: str, key: str, run: _Run) -> None:
        self._forget(caller, key, run)
        run.end_grace()
        if run.stream is not None:
            run.stream.end()
        # Asking for the exception also marks it as seen, where nobody follows any more.
        if run.work.cancelled() or run.work.exception() is not None:
            return
        result = run.work.result()
        if result.HasField("answer"):
            self._kept.put(caller, key, run.run_id, run.digest, result.SerializeToString())

    def _forget(self, caller: str, key: str, run: _Run) -> None:
        own = self._running.get(caller, {})
        if own.get(key) is run:
            del own[key]
            if not own:
                del self._running[caller]


def _require_same(key: str, before: bytes, now: bytes) -> None:
    if before != now:
        raise ConflictError(
            f"task.idempotency_key {key!r} was used before for other content: "
            "another task needs another key"
        )


def _patience_s(deadline_s: float | None) -> float | None:
    return None if deadline_s is None else max(0.0, deadline_s - time.monotonic()) + _LATE_S


def _is_later(deadline_s: float | None, than_s: float | None) -> bool:
    """Whether a deadline is ahead and later than another; None is no deadline."""
    if than_s is None:
        return False
    return deadline_s is None or deadline_s > max(than_s, time.monotonic())
