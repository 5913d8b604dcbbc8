"""The stream between a device and the cloud: whose answer is whose, waiting, joining, limits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import grpc
import pytest
from agents import free_port
from fleet import (
    PATIENCE_S,
    GatedModel,
    all_done,
    asking,
    echo,
    infer,
    running_cloud,
    running_uplink,
)

from airloom.errors import (
    DeadlineExceededError,
    InvalidTaskError,
    OverloadedError,
    UnreachableError,
)
from airloom.stream import StreamLimits
from device_agent.uplink.uplink import Uplink
from protos.airloom.v1 import fleet_pb2, fleet_pb2_grpc, inference_pb2, task_pb2

LABELS = ("same", "", "same", "")


def deadline_s() -> float:
    return time.monotonic() + PATIENCE_S


async def ask(uplink: Uplink, text: str, label: str = "") -> str:
    result = await uplink.ask(asking(text, label), deadline_s())
    assert result.task_id == label
    return result.answer.text


async def test_asks_of_one_label_get_their_own_answers() -> None:
    async with running_cloud() as cloud, running_uplink(cloud.address) as uplink:
        cloud.model.may_end.clear()
        questions = [f"question {n}" for n in range(40)]
        answers = [
            asyncio.create_task(ask(uplink, question, LABELS[n % 4]))
            for n, question in enumerate(questions)
        ]
        await cloud.model.until(lambda: len(cloud.model.asked) == 40)
        cloud.model.may_end.set()
        assert await all_done(answers) == [f"answer to {question}" for question in questions]


async def test_assignments_of_one_label_get_their_own_answers() -> None:
    gate, handed = asyncio.Event(), asyncio.Semaphore(0)

    async def handle(task: task_pb2.Task) -> task_pb2.TaskResult:
        handed.release()
        await gate.wait()
        return await echo(task)

    async with running_cloud() as cloud, running_uplink(cloud.address, handle=handle) as uplink:
        await cloud.until_registered("board")
        async with grpc.aio.insecure_channel(cloud.address) as channel:
            handing = [
                asyncio.create_task(infer(channel, asking(f"{n}", LABELS[n % 4]), "board"))
                for n in range(20)
            ]
            # While the device is busy with assignments it asks: the numbers of the two never mix.
            for _ in range(20):
                await asyncio.wait_for(handed.acquire(), PATIENCE_S)
            assert await ask(uplink, "its own", "same") == "answer to its own"
            gate.set()
            results = await all_done(handing)
    for n, result in enumerate(results):
        assert result.answer.text == f"device's answer to {n}"
        assert result.task_id == LABELS[n % 4]
        assert result.answer.provenance.agent_id == "board"


async def test_of_several_asks_of_one_label_one_is_cancelled() -> None:
    async with running_cloud() as cloud, running_uplink(cloud.address) as uplink:
        cloud.model.may_end.clear()
        asks = [asyncio.create_task(ask(uplink, f"q{n}", "same")) for n in range(3)]
        await cloud.model.until(lambda: len(cloud.model.asked) == 3)
        asks[1].cancel()
        await cloud.model.until(lambda: cloud.model.cancelled == ["q1"])
        cloud.model.may_end.set()
        assert await all_done([asks[0], asks[2]]) == ["answer to q0", "answer to q2"]
        assert cloud.model.cancelled == ["q1"]


async def test_of_several_assignments_of_one_label_one_is_cancelled() -> None:
    gate, handed, ended = asyncio.Event(), asyncio.Semaphore(0), asyncio.Event()
    cancelled: list[str] = []

    async def handle(task: task_pb2.Task) -> task_pb2.TaskResult:
        handed.release()
        try:
            await gate.wait()
        except asyncio.CancelledError:
            cancelled.append(task.parts[0].text.text)
            ended.set()
            raise
        return await echo(task)

    async with running_cloud() as cloud, running_uplink(cloud.address, handle=handle):
        await cloud.until_registered("board")
        async with grpc.aio.insecure_channel(cloud.address) as channel:
            handing = [
                asyncio.create_task(infer(channel, asking(f"{n}", "same"), "board"))
                for n in range(3)
            ]
            for _ in range(3):
                await asyncio.wait_for(handed.acquire(), PATIENCE_S)
            handing[1].cancel()
            await asyncio.wait_for(ended.wait(), PATIENCE_S)
            gate.set()
            results = await all_done([handing[0], handing[2]])
    assert [result.answer.text[-1] for result in results] == ["0", "2"]
    assert cancelled == ["1"]


async def test_the_clouds_text_comes_before_the_result_and_a_slow_reader_holds_up_nobody() -> None:
    async with running_cloud() as cloud, running_uplink(cloud.address) as uplink:
        cloud.model.may_end.clear()
        pieces: list[str] = []
        first, may_read_on = asyncio.Event(), asyncio.Event()

        async def read(text: str) -> None:
            pieces.append(text)
            first.set()
            await may_read_on.wait()

        slow = asyncio.create_task(uplink.ask(asking("a long story"), deadline_s(), read))
        await asyncio.wait_for(first.wait(), PATIENCE_S)
        assert not slow.done()
        cloud.model.may_end.set()
        # The reader is still busy with the first piece, and others are answered.
        assert await ask(uplink, "another") == "answer to another"
        assert len(pieces) == 1
        may_read_on.set()
        result = await asyncio.wait_for(slow, PATIENCE_S)
        assert "".join(pieces) == result.answer.text == "answer to a long story"
        assert len(pieces) == 2


async def test_an_ask_waits_for_the_cloud_to_come() -> None:
    port = free_port()
    async with running_uplink(f"127.0.0.1:{port}", wait_s=PATIENCE_S) as uplink:
        waiting = asyncio.create_task(ask(uplink, "with a deadline"))
        patient = asyncio.create_task(uplink.ask(asking("without"), None))
        while "failed to connect" not in uplink.last_error:
            await asyncio.sleep(0.005)
        async with running_cloud(port=port):
            assert (await all_done([waiting]))[0] == "answer to with a deadline"
            assert (await all_done([patient]))[0].answer.text == "answer to without"


async def test_an_ask_waits_no_longer_than_it_may() -> None:
    async with running_uplink(f"127.0.0.1:{free_port()}", wait_s=0.01) as uplink:
        with pytest.raises(UnreachableError, match="cannot be reached"):
            await uplink.ask(asking("?"), None)
        with pytest.raises(DeadlineExceededError, match="before the cloud could be reached"):
            await uplink.ask(asking("?"), time.monotonic() + 0.01)


async def test_too_many_that_wait_are_refused() -> None:
    async with running_cloud() as cloud:
        cloud.model.may_end.clear()
        async with running_uplink(cloud.address, asks_in_flight=2, asks_waiting=1) as uplink:
            asks = [asyncio.create_task(ask(uplink, f"q{n}")) for n in range(3)]
            await cloud.model.until(lambda: len(cloud.model.asked) == 2)
            with pytest.raises(OverloadedError, match="wait for the cloud already"):
                await ask(uplink, "one too many")
            cloud.model.may_end.set()
            assert len(await all_done(asks)) == 3


async def test_a_renewed_stream_joins_the_running_ask_and_tells_no_text_twice() -> None:
    async with running_cloud() as cloud, running_uplink(cloud.address) as uplink:
        cloud.model.may_end.clear()
        pieces: list[str] = []
        first = asyncio.Event()

        async def read(text: str) -> None:
            pieces.append(text)
            first.set()

        asked = asyncio.create_task(uplink.ask(asking("the one"), deadline_s(), read))
        silent = asyncio.create_task(ask(uplink, "the other"))
        await asyncio.wait_for(first.wait(), PATIENCE_S)
        await cloud.model.until(lambda: len(cloud.model.asked) == 2)
        (before,) = cloud.registry
        before.close(UnreachableError("cut by the test"))
        while cloud.registry.get("board") in (None, before):
            await asyncio.sleep(0.005)
        cloud.model.may_end.set()
        result = await asyncio.wait_for(asked, PATIENCE_S)
        assert result.answer.text == "".join(pieces) == "answer to the one"
        assert await all_done([silent]) == ["answer to the other"]
        assert sorted(cloud.model.asked) == ["the one", "the other"]


async def test_a_result_whose_stream_broke_is_kept_for_the_next() -> None:
    async with running_cloud() as cloud:
        async with running_uplink(cloud.address) as uplink:
            await cloud.until_registered("board")
        async with grpc.aio.insecure_channel(cloud.address) as channel:
            # By hand: the same key on two streams, the first left after its result.
            for _ in range(2):
                call = fleet_pb2_grpc.FleetServiceStub(channel).Connect()
                await call.write(registration("board"))
                task = asking("once")
                task.idempotency_key = "k"
                await call.write(fleet_pb2.ConnectRequest(ask=task, correlation_id=1))
                while True:
                    response = await asyncio.wait_for(call.read(), PATIENCE_S)
                    if response.HasField("result"):
                        assert response.result.answer.text == "answer to once"
                        break
                call.cancel()
        assert cloud.model.asked == ["once"]
        del uplink


async def test_what_nobody_comes_back_for_is_cancelled() -> None:
    async with running_cloud(grace_s=0.05) as cloud:
        cloud.model.may_end.clear()
        async with running_uplink(cloud.address) as uplink:
            asked = asyncio.create_task(ask(uplink, "left behind"))
            await cloud.model.until(lambda: cloud.model.asked == ["left behind"])
        await cloud.model.until(lambda: cloud.model.cancelled == ["left behind"])
        asked.cancel()


def registration(device_id: str, **model: str) -> fleet_pb2.ConnectRequest:
    return fleet_pb2.ConnectRequest(
        registration=fleet_pb2.Registration(
            device_id=device_id, protocol="airloom.v1", model=inference_pb2.ModelInfo(**model)
        )
    )


async def test_one_ask_too_large_spares_the_others() -> None:
    limits = StreamLimits(message_bytes=1 << 20, unfinished_bytes=2 << 20)
    async with (
        running_cloud(stream=limits) as cloud,
        running_uplink(cloud.address, stream=limits) as uplink,
    ):
        cloud.model.may_end.clear()
        innocent = [asyncio.create_task(ask(uplink, f"q{n}")) for n in range(30)]
        await cloud.model.until(lambda: len(cloud.model.asked) == 30)
        (device,) = cloud.registry
        with pytest.raises(InvalidTaskError, match="bytes are too many"):
            await ask(uplink, "x" * (1 << 20))
        large = asyncio.create_task(ask(uplink, "y" * 400_000))
        cloud.model.may_end.set()
        assert len(await all_done(innocent)) == 30
        assert len(await asyncio.wait_for(large, PATIENCE_S)) > 400_000
        assert list(cloud.registry) == [device]


async def test_a_device_with_larger_limits_is_told_for_that_ask_alone() -> None:
    small = StreamLimits(message_bytes=1 << 16, unfinished_bytes=1 << 17)
    async with running_cloud(stream=small) as cloud, running_uplink(cloud.address) as uplink:
        large = await uplink.ask(asking("x" * 100_000), deadline_s())
        assert large.error.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
        assert "more than 65536 bytes" in large.error.message
        assert await ask(uplink, "small") == "answer to small"


async def test_a_frozen_device_holds_little_and_is_noticed() -> None:
    async with running_cloud(bytes_in_flight=1 << 20, heartbeat_interval_s=0.2) as cloud:  # noqa: SIM117
        async with grpc.aio.insecure_channel(cloud.address) as channel:
            call = fleet_pb2_grpc.FleetServiceStub(channel).Connect()
            await call.write(registration("frozen"))
            heartbeat = fleet_pb2.ConnectRequest(heartbeat=fleet_pb2.Heartbeat(sequence=1))
            await call.write(heartbeat)
            # From here on it neither reads nor writes.
            await cloud.until_registered("frozen")
            handing = [
                asyncio.create_task(infer(channel, asking("x" * 300_000), "frozen"))
                for _ in range(12)
            ]
            outcomes = await asyncio.wait_for(
                asyncio.gather(*handing, return_exceptions=True), PATIENCE_S
            )
            codes = [one.code() for one in outcomes if isinstance(one, grpc.aio.AioRpcError)]
            assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == 9
            assert codes.count(grpc.StatusCode.UNAVAILABLE) == 3
            await cloud.until_registered()


async def test_a_flood_that_is_not_read_ends_its_stream(caplog: pytest.LogCaptureFixture) -> None:
    limits = StreamLimits(waiting_messages=16)
    async with (
        running_cloud(stream=limits, asks_in_flight=1) as cloud,
        grpc.aio.insecure_channel(cloud.address) as channel,
    ):
        cloud.model.may_end.clear()
        call = fleet_pb2_grpc.FleetServiceStub(channel).Connect()
        await call.write(registration("flooding"))

        async def flood() -> None:
            for number in range(1, 100_000, 2):
                task = asking("x", "label" * 1000)
                await call.write(fleet_pb2.ConnectRequest(ask=task, correlation_id=number))

        with caplog.at_level("INFO"):
            flooding = asyncio.create_task(flood())
            while "16 messages wait to be sent" not in caplog.text:
                await asyncio.sleep(0.01)
            await cloud.until_registered()
        flooding.cancel()
        await asyncio.gather(flooding, return_exceptions=True)


async def ended(
    requests: list[fleet_pb2.ConnectRequest], address: str
) -> tuple[grpc.StatusCode, str]:
    """Send messages on a stream of its own, leave it open, and say how the cloud ended it."""

    over = asyncio.Event()

    async def sending() -> AsyncIterator[fleet_pb2.ConnectRequest]:
        for request in requests:
            yield request
        await over.wait()

    async with grpc.aio.insecure_channel(address) as channel:
        call = fleet_pb2_grpc.FleetServiceStub(channel).Connect(sending(), timeout=PATIENCE_S)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in call:
                pass
        over.set()
    return caught.value.code(), caught.value.details() or ""


async def test_what_is_no_stream_of_a_device_is_ended_in_words() -> None:
    hello = registration("board")
    ask_even = fleet_pb2.ConnectRequest(ask=asking("?"), correlation_id=2)
    part = fleet_pb2.ConnectRequest(
        chunk=fleet_pb2.Chunk(data=b"\xff\xff", last=True), correlation_id=1
    )
    other = registration("board")
    other.registration.protocol = "airloom.v9\n"
    code = grpc.StatusCode
    async with running_cloud(registration_timeout_s=0.2) as cloud:
        for requests, status, words in (
            ([], code.DEADLINE_EXCEEDED, "no registration came within 0.2 s"),
            ([ask_even], code.INVALID_ARGUMENT, "first message must be a registration"),
            ([other], code.FAILED_PRECONDITION, "not 'airloom.v9"),
            ([registration("../x")], code.INVALID_ARGUMENT, "is no name"),
            ([registration("b", name="x\ny")], code.INVALID_ARGUMENT, "model.name is 'x"),
            ([registration("b", sha256="f" * 999)], code.INVALID_ARGUMENT, "at most 256"),
            ([hello, hello], code.INVALID_ARGUMENT, "may not send registration"),
            ([hello, ask_even], code.INVALID_ARGUMENT, "should be odd and new"),
            ([hello, part], code.INVALID_ARGUMENT, "no message"),
        ):
            told, details = await ended(requests, cloud.address)
            assert told == status, details
            assert words in details


async def test_streams_are_counted() -> None:
    async with running_cloud(streams=1) as cloud, running_uplink(cloud.address) as uplink:
        await cloud.until_registered("board")
        told, details = await ended([registration("other")], cloud.address)
        assert told == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "1 streams" in details
        assert await ask(uplink, "still here") == "answer to still here"


async def test_an_older_stream_of_the_same_name_is_closed_and_its_assignments_fail() -> None:
    never = asyncio.Event()

    async def handle(task: task_pb2.Task) -> task_pb2.TaskResult:
        await never.wait()
        return await echo(task)

    async with running_cloud() as cloud, running_uplink(cloud.address, handle=handle):
        await cloud.until_registered("board")
        async with grpc.aio.insecure_channel(cloud.address) as channel:
            handed = asyncio.create_task(infer(channel, asking("?"), "board"))
            (old,) = cloud.registry
            while not old.tasks_in_flight:
                await asyncio.sleep(0.005)
            call = fleet_pb2_grpc.FleetServiceStub(channel).Connect()
            await call.write(registration("board"))
            with pytest.raises(grpc.aio.AioRpcError, match="newer stream of board") as caught:
                await handed
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
            assert cloud.registry.get("board") is not old


async def test_whatever_is_raised_reaches_whoever_asked(caplog: pytest.LogCaptureFixture) -> None:
    model = GatedModel()
    model.failure = ValueError("injected into the model")

    async def handle(task: task_pb2.Task) -> task_pb2.TaskResult:
        raise ValueError(f"injected into the device's {task.task_id}")

    async def read(text: str) -> None:
        raise ValueError(f"injected into the reader of {text}")

    async with running_cloud(model=model) as cloud:  # noqa: SIM117
        async with running_uplink(cloud.address, handle=handle) as uplink:
            result = await uplink.ask(asking("?"), deadline_s())
            assert result.error.code == grpc.StatusCode.INTERNAL.value[0]
            assert "ValueError" in result.error.message
            await cloud.until_registered("board")
            async with grpc.aio.insecure_channel(cloud.address) as channel:
                handed = await infer(channel, asking("?"), "board")
            assert handed.error.code == grpc.StatusCode.INTERNAL.value[0]
            model.failure = None
            model.may_end.clear()
            with pytest.raises(ValueError, match="injected into the reader"):
                await uplink.ask(asking("read"), deadline_s(), read)
            await model.until(lambda: model.cancelled == ["read"])
            assert uplink.connected
    assert "injected into the model" in caplog.text
    assert "injected into the device" in caplog.text


async def test_a_result_that_says_nothing_is_an_error() -> None:
    async def nothing(_: task_pb2.Task) -> task_pb2.TaskResult:
        return task_pb2.TaskResult(task_id="done")

    async with (
        running_cloud() as cloud,
        running_uplink(cloud.address, "board", nothing),
        grpc.aio.insecure_channel(cloud.address) as channel,
    ):
        await cloud.until_registered("board")
        with pytest.raises(grpc.aio.AioRpcError, match="neither answer nor error") as error:
            await infer(channel, asking("q"), "board")
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_kept_result_of_a_device_is_there_when_the_device_is_not() -> None:
    task = asking("q")
    task.idempotency_key = "k"
    async with running_cloud() as cloud, grpc.aio.insecure_channel(cloud.address) as channel:
        async with running_uplink(cloud.address, "board"):
            await cloud.until_registered("board")
            result = await infer(channel, task, "board")
        await cloud.until_registered()
        assert await infer(channel, task, "board") == result
        task.idempotency_key = "another"
        with pytest.raises(grpc.aio.AioRpcError, match="'board' is not connected"):
            await infer(channel, task, "board")


async def test_what_must_not_leave_the_device_is_not_answered_in_the_cloud() -> None:
    private = asking("secret", residency=task_pb2.RESIDENCY_DEVICE_ONLY)
    async with (
        running_cloud() as cloud,
        running_uplink(cloud.address, "board") as uplink,
        grpc.aio.insecure_channel(cloud.address) as channel,
    ):
        refused = await uplink.ask(private, deadline_s())
        assert "task.budget.residency" in refused.error.message
        with pytest.raises(grpc.aio.AioRpcError, match="RESIDENCY_DEVICE_ONLY") as error:
            await infer(channel, private)
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert cloud.model.asked == []
        # Whoever hands it to a device names the one that it may not leave.
        handed = await infer(channel, private, "board")
        assert handed.answer.text == "device's answer to secret"


async def test_deadlines_travel_as_time_left_and_hold_on_the_stream() -> None:
    async with running_cloud() as cloud, running_uplink(cloud.address) as uplink:
        cloud.model.may_end.clear()
        with pytest.raises(DeadlineExceededError, match="before the cloud answered"):
            await uplink.ask(asking("slow"), time.monotonic() + 0.3)
        await cloud.model.until(lambda: cloud.model.cancelled == ["slow"])


class DelayedLink:
    """Passes a TCP connection's bytes on, each way after a delay."""

    def __init__(self, target_port: int, delay_s: float) -> None:
        self._target_port, self._delay_s = target_port, delay_s
        self._work: set[asyncio.Task[None]] = set()

    async def serve(self, port: int) -> asyncio.Server:
        return await asyncio.start_server(self._join, "127.0.0.1", port)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            passing = asyncio.create_task(self._pass_on(source, sink))
            self._work.add(passing)
            passing.add_done_callback(self._work.discard)

    async def _pass_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while data := await source.read(65536):
            loop.call_later(self._delay_s, sink.write, data)
        loop.call_later(self._delay_s, sink.close)


async def test_a_round_trip_longer_than_the_heartbeats_interval_is_told_as_it_is() -> None:
    port, far_port = free_port(), free_port()
    link = await DelayedLink(port, delay_s=0.25).serve(far_port)
    async with running_cloud(port=port, heartbeat_interval_s=0.1) as cloud:
        async with running_uplink(f"127.0.0.1:{far_port}") as uplink:
            await cloud.until_registered("board")
            (device,) = cloud.registry
            while device.rtt_ms is None:
                await asyncio.sleep(0.01)
            assert device.rtt_ms >= 500
            assert uplink.rtt_ms is not None
            assert uplink.rtt_ms >= 500
            device.close(UnreachableError("cut by the test"))
            while uplink.rtt_ms is not None:
                await asyncio.sleep(0.001)
        assert uplink.rtt_ms is None
    link.close()
