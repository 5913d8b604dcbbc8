"""Several callers on one board, over mutual TLS: each gets its own answers and finds its own runs."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from agents import MODELS, free_port

from airloom.errors import (
    CancelledTaskError,
    DeadlineExceededError,
    InvalidTaskError,
    OverloadedError,
    UnreachableError,
)
from airloom.grpc_server import GrpcServer
from airloom.security import ServerSecurity, TransportSecurity, open_channel
from device_agent.cascade import Cascade
from device_agent.chat import EngineChat
from device_agent.config import DeviceSettings
from device_agent.engine import Engine, EngineSettings, HandedOverError, Model
from device_agent.service.handover import Handover
from device_agent.service.servicer import RUN_ID_HEADER, InferenceServicer
from protos.airloom.v1 import inference_pb2, inference_pb2_grpc, task_pb2

sys.path.insert(0, str(Path(__file__).parents[1]))
from gates import Gate
from identities import Identities

Call = Callable[..., Awaitable[Any]]


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> Identities:
    return Identities(tmp_path_factory.mktemp("identities"))


@dataclass
class Board:
    """board-a's agent in this process, and clients that show a certificate each."""

    address: str
    identities: Identities
    chat: EngineChat
    stack: contextlib.AsyncExitStack

    async def until_running(self, count: int) -> None:
        while len(self.chat.engine._loop.scheduler.running) < count:
            await asyncio.sleep(0.005)

    async def as_caller(self, name: str) -> Any:
        security = TransportSecurity.model_validate(self.identities.files(name))
        channel = await self.stack.enter_async_context(open_channel(self.address, security))
        return inference_pb2_grpc.InferenceServiceStub(channel)


@contextlib.asynccontextmanager
async def serving(
    identities: Identities, security: dict[str, Any], **changes: Any
) -> AsyncIterator[Board]:
    settings = DeviceSettings.model_validate(
        {
            "device_id": "board-a",
            "listen": f"127.0.0.1:{free_port()}",
            "listen_security": security,
            "model": {"path": str(MODELS["mathematics"]), "threads": 1},
        }
    )
    engine = Engine(Model(settings.model.path), EngineSettings(threads=1))
    chat = EngineChat(engine)
    cascade = Cascade(settings, chat)
    server = GrpcServer(settings.listen, ServerSecurity.model_validate(security), [])
    infer = changes.get("infer", cascade.infer)
    trust_names = settings.listen_security.trust_names
    servicer = InferenceServicer(infer, cascade.answerer, chat, trust_names=trust_names)
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(servicer, server.server)
    await server.start()
    try:
        async with contextlib.AsyncExitStack() as stack:
            yield Board(settings.listen, identities, chat, stack)
    finally:
        await server.stop()
        await asyncio.to_thread(engine.close)


@pytest.fixture
async def board(identities: Identities) -> AsyncIterator[Board]:
    async with serving(identities, identities.files("board-a")) as started:
        yield started


def sum_of(a: int, b: int, **fields: Any) -> task_pb2.Task:
    part = task_pb2.Part(text=task_pb2.TextPart(text=f"What is {a}+{b}?"))
    return task_pb2.Task(parts=[part], **fields)


def long_task(label: str = "", key: str = "") -> task_pb2.Task:
    task = sum_of(12, 25, task_id=label, idempotency_key=key)
    task.sampling.grammar = "root ::= [0-9]{300}"
    task.sampling.max_tokens = 320
    return task


async def infer(stub: Any, task: task_pb2.Task) -> task_pb2.TaskResult:
    return (await stub.Infer(inference_pb2.InferRequest(task=task), timeout=60)).result


async def stream(stub: Any, task: task_pb2.Task) -> task_pb2.TaskResult:
    call = stub.InferStream(inference_pb2.InferStreamRequest(task=task), timeout=60)
    return [event async for event in call][-1].result


async def batch(stub: Any, *tasks: task_pb2.Task) -> list[task_pb2.TaskResult]:
    call = stub.InferBatch(inference_pb2.InferBatchRequest(tasks=tasks), timeout=60)
    return [reply.result async for reply in call]


async def suspend(stub: Any, **named: str) -> bytes:
    call = stub.Suspend(inference_pb2.SuspendRequest(**named), timeout=60)
    return b"".join([reply.chunk async for reply in call])


async def refused(call: Awaitable[Any], code: grpc.StatusCode, says: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match=says) as error:
        await call
    assert error.value.code() is code


async def begun(stub: Any, task: task_pb2.Task) -> tuple[Any, str]:
    """A streamed call and its run's id, when text has come."""
    call = stub.InferStream(inference_pb2.InferStreamRequest(task=task), timeout=60)
    run_id = (await call.read()).started.run_id
    assert (await call.read()).text
    return call, run_id


async def stepping(gate: Gate, work: Awaitable[Any]) -> Any:
    """Let the engine make one pass after another until the work is done."""
    working = asyncio.ensure_future(work)
    while not working.done():
        gate.let(1)
        await asyncio.wait({working}, timeout=0.005)
    return working.result()


@pytest.mark.parametrize("label", ["same", ""])
@pytest.mark.parametrize("ask", [infer, stream])
async def test_labels_cross_no_answers(board: Board, label: str, ask: Call) -> None:
    stubs = [await board.as_caller(name) for name in ("board-a", "board-b")]
    sums = [(47, 85), (13, 24), (21, 22), (30, 41)]
    asked = [ask(stubs[n % 2], sum_of(a, b, task_id=label)) for n, (a, b) in enumerate(sums)]
    results = await asyncio.gather(*asked)
    assert [r.answer.final_answer for r in results] == [str(a + b) for a, b in sums]
    assert {r.task_id for r in results} == {label}


async def test_a_batch_of_one_label_has_an_answer_for_each(board: Board) -> None:
    results = await batch(await board.as_caller("board-b"), *(sum_of(n, 25) for n in range(11, 15)))
    assert {r.answer.final_answer for r in results} == {"36", "37", "38", "39"}


async def test_cancelling_one_of_a_label_leaves_the_other(board: Board, gate: Gate) -> None:
    stub = await board.as_caller("board-b")
    gate.shut()
    kept = asyncio.ensure_future(infer(stub, sum_of(47, 85, task_id="label")))
    request = inference_pb2.InferStreamRequest(task=sum_of(13, 24, task_id="label"))
    dropped = stub.InferStream(request, timeout=60)
    assert (await dropped.read()).started.run_id
    dropped.cancel()
    gate.open()
    assert (await kept).answer.final_answer == "132"


async def test_each_run_has_an_id_of_its_own(board: Board) -> None:
    stub = await board.as_caller("board-b")
    seen = set()
    for _ in range(2):
        call = stub.Infer(inference_pb2.InferRequest(task=sum_of(13, 24, task_id="x")), timeout=60)
        seen.add(dict(await call.initial_metadata())[RUN_ID_HEADER])
        await call
    assert len(seen) == 2


async def test_a_key_joins_on_every_path_and_other_content_is_a_conflict(board: Board) -> None:
    stub = await board.as_caller("board-b")
    keyed = sum_of(47, 85, idempotency_key="k")
    first, second, (third,) = await asyncio.gather(
        infer(stub, keyed), stream(stub, keyed), batch(stub, keyed)
    )
    assert first.answer == second.answer == third.answer
    assert first.timing.total_ms == second.timing.total_ms == third.timing.total_ms
    other = sum_of(13, 24, idempotency_key="k")
    for ask in (infer, stream):
        await refused(ask(stub, other), grpc.StatusCode.ALREADY_EXISTS, "another task needs")
    (failed,) = await batch(stub, other)
    assert failed.error.code == grpc.StatusCode.ALREADY_EXISTS.value[0]
    somebody = await board.as_caller("coordinator")
    assert (await infer(somebody, other)).answer.final_answer == "37"


async def test_a_broken_stream_is_joined_again_from_its_beginning(board: Board, gate: Gate) -> None:
    stub = await board.as_caller("board-b")
    gate.shut(after=12)
    first, run_id = await begun(stub, long_task(key="k"))
    joined = stub.InferStream(inference_pb2.InferStreamRequest(task=long_task(key="k")), timeout=60)
    assert (await joined.read()).started.run_id == run_id
    first.cancel()
    gate.open()
    events = await _rest(joined)
    assert "".join(event.text for event in events) == events[-1].result.answer.text


async def test_only_its_own_caller_and_an_operator_suspend_a_run(board: Board, gate: Gate) -> None:
    owner = await board.as_caller("board-b")
    gate.shut(after=12)
    running, run_id = await begun(owner, long_task("moving"))
    for name in ("board-a", "coordinator", "cloud"):
        other = await board.as_caller(name)
        for named in ({"run_id": run_id}, {"task_id": "moving"}):
            await refused(suspend(other, **named), grpc.StatusCode.NOT_FOUND, "is under way here")
    operator = await board.as_caller("operator")
    await refused(
        suspend(operator, task_id="moving"), grpc.StatusCode.NOT_FOUND, "of operator is under way"
    )
    state = await stepping(gate, suspend(operator, run_id=run_id))
    assert state
    gate.open()
    await refused(_rest(running), grpc.StatusCode.CANCELLED, "handed over")


async def _rest(call: Any) -> list[Any]:
    events = []
    while (event := await call.read()) is not grpc.aio.EOF:
        events.append(event)
    return events


async def test_a_label_of_two_runs_names_neither(board: Board, gate: Gate) -> None:
    stub = await board.as_caller("board-b")
    gate.shut(after=12)
    one, first_id = await begun(stub, long_task("label"))
    gate.let(12)
    two, second_id = await begun(stub, long_task("label"))
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await suspend(stub, task_id="label")
    assert error.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert first_id in str(error.value.details())
    assert second_id in str(error.value.details())
    assert await stepping(gate, suspend(stub, run_id=second_id))
    gate.open()
    await refused(_rest(two), grpc.StatusCode.CANCELLED, "handed over")
    assert len((await _rest(one))[-1].result.answer.text) == 300


@pytest.mark.parametrize("how", ["fails", "is cancelled"])
async def test_a_suspend_that_breaks_loses_nothing(board: Board, gate: Gate, how: str) -> None:
    stub = await board.as_caller("board-b")
    whole = await infer(stub, long_task())
    gate.shut(after=12)
    running, run_id = await begun(stub, long_task())
    written = asyncio.Event()

    async def write(_: bytes) -> None:
        written.set()
        if how == "fails":
            raise UnreachableError("the link broke")
        await asyncio.Event().wait()

    sending = asyncio.ensure_future(Handover(board.chat).send("me", run_id, None, write))
    await stepping(gate, written.wait())
    if how == "fails":
        with pytest.raises(UnreachableError):
            await sending
    else:
        sending.cancel()
        await asyncio.wait({sending})
    gate.open()
    assert (await _rest(running))[-1].result.answer.text == whole.answer.text


async def test_a_suspend_that_ends_well_tells_whoever_asked(board: Board, gate: Gate) -> None:
    gate.shut(after=12)
    stub = await board.as_caller("board-b")
    _, run_id = await begun(stub, long_task())
    generation = board.chat._running[run_id]
    chunks: list[bytes] = []

    async def write(chunk: bytes) -> None:
        chunks.append(chunk)

    await stepping(gate, Handover(board.chat).send("me", run_id, None, write))
    gate.open()
    with pytest.raises(HandedOverError):
        await generation.completion()
    assert (await board.chat.engine.read_state(b"".join(chunks))).generated


async def test_a_state_that_got_lost_on_its_way_is_fetched_again(board: Board, gate: Gate) -> None:
    stub = await board.as_caller("board-b")
    gate.shut(after=12)
    running, run_id = await begun(stub, long_task("moving"))
    state = await stepping(gate, suspend(stub, run_id=run_id))
    gate.open()
    await refused(_rest(running), grpc.StatusCode.CANCELLED, "handed over")
    assert await suspend(stub, run_id=run_id) == state
    for name in ("board-a", "operator"):
        other = suspend(await board.as_caller(name), run_id=run_id)
        await refused(other, grpc.StatusCode.NOT_FOUND, "is under way here")


async def test_what_goes_on_here_after_all_is_not_sent_again(board: Board, gate: Gate) -> None:
    stub = await board.as_caller("board-b")
    gate.shut(after=12)
    running, run_id = await begun(stub, long_task())
    # The engine is in a pass for another while the state is written.
    another = asyncio.ensure_future(infer(stub, long_task()))
    writing, may_go_on = asyncio.Event(), asyncio.Event()

    async def write(_: bytes) -> None:
        writing.set()
        await may_go_on.wait()

    handover = Handover(board.chat)
    sending = asyncio.ensure_future(handover.send("me", run_id, None, write))
    await stepping(gate, writing.wait())
    await stepping(gate, board.until_running(2))
    await gate.held()
    may_go_on.set()
    chores = board.chat.engine._loop.chores
    while not chores.pending:
        await asyncio.sleep(0.005)
    sending.cancel()
    await asyncio.wait({sending})
    gate.open()
    assert len((await _rest(running))[-1].result.answer.text) == 300
    assert len((await another).answer.text) == 300
    assert handover.sent("me", run_id) is None


async def states(*chunks: bytes, label: str = "") -> AsyncIterator[inference_pb2.ResumeRequest]:
    for chunk in chunks:
        yield inference_pb2.ResumeRequest(task_id=label, chunk=chunk)


async def test_a_state_that_stops_arriving_ends_the_call(board: Board) -> None:
    async def stops() -> AsyncIterator[inference_pb2.ResumeRequest]:
        yield inference_pb2.ResumeRequest(chunk=b"a beginning")
        await asyncio.Event().wait()

    with pytest.raises(DeadlineExceededError, match="the next part of the state did not come"):
        await Handover(board.chat, patience_s=0.01).receive("me", stops(), None)
    call = (await board.as_caller("board-b")).Resume(stops(), timeout=0.2)
    await refused(call.read(), grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE")


async def test_a_state_has_a_size_limit_before_it_is_assembled(board: Board) -> None:
    most = board.chat.engine.max_state_bytes
    chunk = bytes(1 << 20)
    taken = 0

    async def endless() -> AsyncIterator[inference_pb2.ResumeRequest]:
        nonlocal taken
        while True:
            taken += len(chunk)
            yield inference_pb2.ResumeRequest(chunk=chunk)

    with pytest.raises(InvalidTaskError, match=f"more than {most:,} bytes"):
        await Handover(board.chat).receive("me", endless(), None)
    assert taken <= most + len(chunk)


async def test_one_caller_does_not_keep_out_the_states_of_others(board: Board) -> None:
    handover, most = Handover(board.chat), board.chat.engine.max_state_bytes
    arrived, may_end = asyncio.Event(), asyncio.Event()

    async def stays() -> AsyncIterator[inference_pb2.ResumeRequest]:
        yield inference_pb2.ResumeRequest(chunk=bytes(most))
        arrived.set()
        await may_end.wait()

    staying = asyncio.ensure_future(handover.receive("hog", stays(), None))
    await arrived.wait()
    with pytest.raises(OverloadedError, match="this caller's states"):
        await handover.receive("hog", states(b"more"), None)
    assert (await handover.receive("me", states(bytes(most)), None)).data == bytes(most)
    may_end.set()
    assert len((await staying).data) == most
    assert (await handover.receive("hog", states(b"again"), None)).data == b"again"


async def test_in_plaintext_nobody_resumes_or_names_runs_by_label(identities: Identities) -> None:
    async with serving(identities, {"plaintext": True}) as board:
        channel = grpc.aio.insecure_channel(board.address)
        stub: Any = inference_pb2_grpc.InferenceServiceStub(channel)
        assert (await infer(stub, sum_of(47, 85))).answer.final_answer == "132"
        await refused(stub.Resume(states(b"x")).read(), grpc.StatusCode.UNAUTHENTICATED, "takes a")
        await refused(suspend(stub, task_id="t"), grpc.StatusCode.INVALID_ARGUMENT, "by its run_id")
        await channel.close()


async def test_what_a_board_cannot_keep_to_is_refused_and_zero_time_has_passed(
    board: Board,
) -> None:
    stub = await board.as_caller("board-b")
    for budget, code, says in (
        ({"cost_micros": 5}, grpc.StatusCode.INVALID_ARGUMENT, "task.budget.cost_micros is set"),
        ({"energy_joules": 5}, grpc.StatusCode.INVALID_ARGUMENT, "task.budget.energy_joules is"),
        ({"deadline_ms": -1}, grpc.StatusCode.INVALID_ARGUMENT, "task.budget.deadline_ms is -1"),
        ({"deadline_ms": 0}, grpc.StatusCode.DEADLINE_EXCEEDED, "deadline"),
    ):
        task = sum_of(13, 24, budget=task_pb2.Budget(**budget))
        for ask in (infer, stream):
            await refused(ask(stub, task), code, says)
        (failed,) = await batch(stub, task)
        assert failed.error.code == code.value[0]
    texts = inference_pb2.EmbedRequest(texts=["x"] * 65)
    await refused(stub.Embed(texts), grpc.StatusCode.INVALID_ARGUMENT, "texts has 65")
    await refused(batch(stub), grpc.StatusCode.INVALID_ARGUMENT, "tasks has 0 elements")


@pytest.mark.parametrize("key", ["", "k"])
async def test_an_engine_that_stands_still_keeps_nobody_beyond_the_deadline(
    board: Board, gate: Gate, key: str
) -> None:
    stub = await board.as_caller("board-b")
    gate.shut()
    task = sum_of(13, 24, idempotency_key=key, budget=task_pb2.Budget(deadline_ms=50))
    for ask in (infer, stream):
        await refused(ask(stub, task), grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed")
    (failed,) = await batch(stub, task)
    assert failed.error.code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
    gate.open()


async def test_text_for_a_caller_that_has_left_is_no_fault(
    identities: Identities, caplog: pytest.LogCaptureFixture
) -> None:
    raised: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()

    async def tells_late(*asked: Any) -> Any:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        try:
            await asked[2].text("too late")
        except BaseException as error:
            raised.set_result(error)
            raise

    async with serving(identities, identities.files("board-a"), infer=tells_late) as board:
        stub = await board.as_caller("board-b")
        call = stub.InferStream(inference_pb2.InferStreamRequest(task=sum_of(1, 2)))
        assert (await call.read()).started.run_id
        call.cancel()
        assert isinstance(await raised, CancelledTaskError)
    assert "unexpected" not in caplog.text


async def test_a_fault_in_a_handler_is_internal_and_ends_every_kind_of_call(
    identities: Identities,
) -> None:
    async def broken(*_: Any) -> task_pb2.TaskResult:
        raise ValueError("secret " + "x" * 100_000)

    async with serving(identities, identities.files("board-a"), infer=broken) as board:
        stub = await board.as_caller("board-b")
        for key in ("", "k"):
            task = sum_of(13, 24, idempotency_key=key)
            for ask in (infer, stream):
                await refused(ask(stub, task), grpc.StatusCode.INTERNAL, "unexpected ValueError")
            (failed,) = await batch(stub, task)
            assert failed.error.code == grpc.StatusCode.INTERNAL.value[0]
            assert len(failed.error.message) < 200
