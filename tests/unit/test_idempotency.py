"""The same key from the same caller runs once; everybody gets the answer or its own error."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airloom.errors import (
    CancelledTaskError,
    ConflictError,
    DeadlineExceededError,
    OverloadedError,
    UnreachableError,
)
from device_agent.answering import AnswerStream
from device_agent.service.idempotency import IdempotentRuns, content_digest
from device_agent.service.kept_results import KeepLimits, KeptResults
from protos.airloom.v1 import task_pb2


def asked(text: str = "What is 47+85?", key: str = "k", label: str = "") -> task_pb2.Task:
    return task_pb2.Task(
        task_id=label,
        idempotency_key=key,
        parts=[task_pb2.Part(text=task_pb2.TextPart(text=text))],
    )


def answered(text: str) -> task_pb2.TaskResult:
    return task_pb2.TaskResult(answer=task_pb2.Answer(text=text))


@dataclass
class GatedWork:
    """Counts how often it is begun, writes pieces at once, and ends when its gate opens."""

    text: str = "132"
    pieces: tuple[str, ...] = ()
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    begun: list[str] = field(default_factory=list)
    begun_once: asyncio.Event = field(default_factory=asyncio.Event)
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    error: Exception | None = None

    async def __call__(
        self, run_id: str, deadline_s: float | None, stream: AnswerStream | None
    ) -> task_pb2.TaskResult:
        self.begun.append(run_id)
        self.begun_once.set()
        try:
            for piece in self.pieces if stream is not None else ():
                await stream.text(piece)
            if deadline_s is None:
                await self.gate.wait()
            else:
                try:
                    await asyncio.wait_for(self.gate.wait(), deadline_s - time.monotonic())
                except asyncio.TimeoutError:
                    raise DeadlineExceededError("the work's deadline passed") from None
        except asyncio.CancelledError:
            self.stopped.set()
            raise
        if self.error is not None:
            raise self.error
        return answered(self.text)


@dataclass
class Heard:
    """What a stream was told."""

    texts: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    run_ids: list[str] = field(default_factory=list)
    held: asyncio.Event | None = None
    """Where set, a piece is only taken when this is."""
    first: asyncio.Event = field(default_factory=asyncio.Event)

    async def text(self, text: str) -> None:
        if self.held is not None:
            await self.held.wait()
        self.texts.append(text)
        self.first.set()

    async def set_aside(self, reason: str) -> None:
        self.reasons.append(reason)

    async def started(self, run_id: str) -> None:
        self.run_ids.append(run_id)


async def until_joined(joining: asyncio.Task[task_pb2.TaskResult]) -> None:
    """Let a call go as far as it can go by itself."""
    for _ in range(10):
        await asyncio.sleep(0)
    assert not joining.done()


async def test_the_same_key_and_content_runs_once_and_each_gets_its_own_label() -> None:
    runs, work = IdempotentRuns(), GatedWork()
    first = asyncio.create_task(runs.run("a", asked(label="one"), work))
    await work.begun_once.wait()
    second = asyncio.create_task(runs.run("a", asked(label="two"), work))
    await until_joined(second)
    work.gate.set()
    results = [await first, await second]
    later = await runs.run("a", asked(label="three"), work)
    assert [result.answer.text for result in (*results, later)] == ["132"] * 3
    assert [result.task_id for result in (*results, later)] == ["one", "two", "three"]
    assert len(work.begun) == 1


async def test_without_a_key_nothing_is_joined_whatever_the_label() -> None:
    runs, work = IdempotentRuns(), GatedWork()
    calls = [
        asyncio.create_task(runs.run("a", asked(key="", label="same"), work)) for _ in range(3)
    ]
    await until_joined(calls[-1])
    work.gate.set()
    await asyncio.gather(*calls)
    assert len(set(work.begun)) == 3


async def test_other_content_under_a_key_is_a_conflict_while_it_runs_and_afterwards() -> None:
    runs, work = IdempotentRuns(), GatedWork()
    first = asyncio.create_task(runs.run("a", asked(), work))
    await work.begun_once.wait()
    with pytest.raises(ConflictError, match="another task needs another key"):
        await runs.run("a", asked("What is 3+4?"), work)
    with pytest.raises(ConflictError):
        await runs.run("a", asked(), work, target="board-a")
    work.gate.set()
    await first
    with pytest.raises(ConflictError):
        await runs.run("a", asked("What is 3+4?"), work)


async def test_callers_never_share_a_key() -> None:
    runs = IdempotentRuns()
    mine, yours = GatedWork("mine"), GatedWork("yours")
    mine.gate.set()
    yours.gate.set()
    assert (await runs.run("a", asked(), mine)).answer.text == "mine"
    assert (await runs.run("b", asked("What is 3+4?"), yours)).answer.text == "yours"


async def test_a_joiner_whose_deadline_passes_leaves_alone() -> None:
    runs, work = IdempotentRuns(), GatedWork()
    first = asyncio.create_task(runs.run("a", asked(), work))
    await work.begun_once.wait()
    with pytest.raises(DeadlineExceededError):
        await runs.run("a", asked(), work, deadline_s=time.monotonic())
    work.gate.set()
    assert (await first).answer.text == "132"


async def test_a_joiner_with_more_time_goes_on_when_the_first_deadline_ends_the_run() -> None:
    runs, work, heard = IdempotentRuns(), GatedWork(pieces=("1",)), Heard()
    first = asyncio.create_task(
        runs.run("a", asked(), work, deadline_s=time.monotonic() + 0.05, stream=Heard())
    )
    await work.begun_once.wait()
    second = asyncio.create_task(runs.run("a", asked(), work, stream=heard))
    with pytest.raises(DeadlineExceededError):
        await first
    while len(work.begun) < 2:
        await asyncio.sleep(0)
    work.gate.set()
    assert (await second).answer.text == "132"
    assert heard.texts == ["1", "1"] and len(heard.reasons) == 1


async def test_the_work_is_stopped_when_its_last_follower_leaves_and_not_before() -> None:
    runs, work = IdempotentRuns(), GatedWork()
    calls = [asyncio.create_task(runs.run("a", asked(), work)) for _ in range(2)]
    await until_joined(calls[1])
    calls[0].cancel()
    await until_joined(calls[1])
    assert not work.stopped.is_set()
    calls[1].cancel()
    await work.stopped.wait()
    again = GatedWork("anew")
    again.gate.set()
    assert (await runs.run("a", asked(), again)).answer.text == "anew"


async def test_within_its_grace_a_run_waits_for_whoever_comes_back() -> None:
    runs, work = IdempotentRuns(), GatedWork()
    lost = asyncio.create_task(runs.run("a", asked(), work, grace_s=60))
    await work.begun_once.wait()
    lost.cancel()
    await asyncio.wait({lost})
    back = asyncio.create_task(runs.run("a", asked(), work))
    await until_joined(back)
    work.gate.set()
    assert (await back).answer.text == "132"
    assert len(work.begun) == 1


async def test_whoever_is_lost_again_has_the_whole_grace_again() -> None:
    runs, work = IdempotentRuns(), GatedWork()
    for grace_s in (0.01, 3600.0):
        lost = asyncio.create_task(runs.run("a", asked(), work, grace_s=grace_s))
        await until_joined(lost)
        lost.cancel()
        await asyncio.wait({lost})
    # Timers fire in their order: this one after that of the first loss.
    await asyncio.sleep(0.02)
    assert not work.stopped.is_set()
    back = asyncio.create_task(runs.run("a", asked(), work))
    await until_joined(back)
    work.gate.set()
    await back
    assert len(work.begun) == 1


async def test_a_withdrawn_run_has_no_grace() -> None:
    runs, work = IdempotentRuns(), GatedWork()
    call = asyncio.create_task(runs.run("a", asked(), work, grace_s=60))
    await work.begun_once.wait()
    call.cancel()
    runs.withdraw("a", "k")
    await work.stopped.wait()


@pytest.mark.parametrize("error", [UnreachableError("gone"), ValueError("a fault")])
async def test_a_failure_is_told_to_all_and_not_kept(error: Exception) -> None:
    runs, work = IdempotentRuns(), GatedWork(error=error)
    calls = [asyncio.create_task(runs.run("a", asked(), work)) for _ in range(2)]
    await until_joined(calls[1])
    work.gate.set()
    assert await asyncio.gather(*calls, return_exceptions=True) == [error, error]
    work.error = None
    assert (await runs.run("a", asked(), work)).answer.text == "132"


@dataclass
class EndingWork:
    """Ends at once, as it was told to."""

    end: BaseException | task_pb2.TaskResult
    begun: int = 0

    async def __call__(self, *_: object) -> task_pb2.TaskResult:
        self.begun += 1
        if isinstance(self.end, BaseException):
            raise self.end
        return self.end


async def test_followers_of_work_that_was_cancelled_get_an_error() -> None:
    with pytest.raises(CancelledTaskError):
        await IdempotentRuns().run("a", asked(), EndingWork(asyncio.CancelledError()))


async def test_a_result_that_is_an_error_is_not_kept() -> None:
    error = task_pb2.TaskError(code=14, message="gone")
    runs, work = IdempotentRuns(), EndingWork(task_pb2.TaskResult(error=error))
    for _ in range(2):
        assert (await runs.run("a", asked(), work)).error == error
    assert work.begun == 2


async def test_a_joiner_of_a_streamed_run_gets_the_text_from_its_beginning() -> None:
    runs, work = IdempotentRuns(), GatedWork(text="132", pieces=("1", "3", "2"))
    first, second, late = Heard(), Heard(), Heard()
    call = asyncio.create_task(runs.run("a", asked(), work, stream=first, on_started=first.started))
    await first.first.wait()
    joining = asyncio.create_task(
        runs.run("a", asked(), work, stream=second, on_started=second.started)
    )
    await second.first.wait()
    work.gate.set()
    await asyncio.gather(call, joining)
    await runs.run("a", asked(), work, stream=late, on_started=late.started)
    assert first.texts == second.texts == ["1", "3", "2"]
    assert late.texts == ["132"]
    assert first.run_ids == second.run_ids == late.run_ids == work.begun


async def test_a_stream_that_joins_what_was_not_streamed_gets_the_whole_text() -> None:
    runs, work, heard = IdempotentRuns(), GatedWork(), Heard()
    call = asyncio.create_task(runs.run("a", asked(), work))
    await work.begun_once.wait()
    joining = asyncio.create_task(runs.run("a", asked(), work, stream=heard))
    await until_joined(joining)
    work.gate.set()
    await asyncio.gather(call, joining)
    assert heard.texts == ["132"]


async def test_text_beyond_the_capacity_is_not_held_for_later_joiners() -> None:
    pieces = tuple(str(number) for number in range(10))
    runs = IdempotentRuns(stream_characters=4)
    work, first, late = GatedWork(text="".join(pieces), pieces=pieces), Heard(), Heard()
    call = asyncio.create_task(runs.run("a", asked(), work, stream=first))
    while len(first.texts) < len(pieces):
        await asyncio.sleep(0)
    joining = asyncio.create_task(runs.run("a", asked(), work, stream=late))
    await until_joined(joining)
    work.gate.set()
    await asyncio.gather(call, joining)
    assert first.texts == list(pieces)
    assert late.texts == ["0123456789"]


async def test_a_follower_that_reads_nothing_does_not_hold_up_the_others() -> None:
    runs, work = IdempotentRuns(stream_characters=4), GatedWork(pieces=tuple("abcdefgh"))
    reads, stuck = Heard(), Heard(held=asyncio.Event())
    frozen = asyncio.create_task(runs.run("a", asked(), work, stream=stuck))
    await work.begun_once.wait()
    call = asyncio.create_task(runs.run("a", asked(), work, stream=reads))
    while len(reads.texts) < 8:
        await asyncio.sleep(0)
    work.gate.set()
    assert (await call).answer.text == "132"
    assert not frozen.done()
    frozen.cancel()


async def test_who_fell_behind_is_told_that_and_then_the_whole_text() -> None:
    pieces = tuple("abcdefgh")
    runs = IdempotentRuns(stream_characters=4)
    work = GatedWork(text="abcdefgh", pieces=pieces)
    reads, slow = Heard(), Heard(held=asyncio.Event())
    behind = asyncio.create_task(runs.run("a", asked(), work, stream=slow))
    await work.begun_once.wait()
    call = asyncio.create_task(runs.run("a", asked(), work, stream=reads))
    while len(reads.texts) < 8:
        await asyncio.sleep(0)
    assert slow.held is not None
    slow.held.set()
    work.gate.set()
    await asyncio.gather(call, behind)
    assert slow.texts == ["a", "abcdefgh"]
    assert len(slow.reasons) == 1
    assert reads.texts == list(pieces)
    assert reads.reasons == []


async def test_keyed_runs_under_way_are_bounded_for_each_caller() -> None:
    runs, work = IdempotentRuns(running_per_caller=2), GatedWork()
    calls = [asyncio.create_task(runs.run("a", asked(key=key), work)) for key in "xy"]
    await until_joined(calls[1])
    with pytest.raises(OverloadedError, match="2 runs"):
        await runs.run("a", asked(key="z"), work)
    other = asyncio.create_task(runs.run("b", asked(key="z"), work))
    await until_joined(other)
    work.gate.set()
    await asyncio.gather(*calls, other)


def test_label_key_deadline_and_trace_are_not_content_and_all_else_is() -> None:
    task = asked()
    same = asked(key="other", label="other")
    same.trace_context["traceparent"] = "00-1"
    same.budget.deadline_ms = 5
    task.budget.SetInParent()
    assert content_digest(same) == content_digest(task)
    other = asked()
    other.sampling.seed = 1
    assert content_digest(other) != content_digest(task)
    assert content_digest(task, "board-a") != content_digest(task, "board-b")


def test_kept_results_grow_old() -> None:
    now_s = 0.0
    kept = KeptResults(KeepLimits(age_s=10), lambda: now_s)
    kept.put("a", "k", "run", b"digest", b"result")
    now_s = 9.9
    assert kept.get("a", "k") is not None
    now_s = 10.0
    assert kept.get("a", "k") is None
    assert len(kept) == kept.size_bytes == 0


LIMITS = KeepLimits(
    results_per_caller=4, bytes_per_caller=10_000, results=12, bytes=24_000, age_s=1e9
)


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abcdef"), st.text("xyz", min_size=1, max_size=3),
            st.integers(0, 12_000),
        ),
        max_size=60,
    )
)  # fmt: skip
def test_what_is_kept_stays_within_its_bounds(puts: list[tuple[str, str, int]]) -> None:
    kept = KeptResults(LIMITS, lambda: 0.0)
    for caller, key, size in puts:
        kept.put(caller, key, "run", b"digest", bytes(size))
        assert len(kept) <= LIMITS.results
        assert kept.size_bytes <= LIMITS.bytes
        assert kept.size_bytes >= len(kept) * 512


def test_a_caller_with_many_keys_pushes_out_only_its_own_results() -> None:
    kept = KeptResults(LIMITS, lambda: 0.0)
    kept.put("innocent", "k", "run", b"digest", b"result")
    for caller in ("attacker", "attacker's friend"):
        for number in range(100):
            kept.put(caller, str(number), "run", b"digest", bytes(9_000))
    assert kept.get("innocent", "k") is not None
