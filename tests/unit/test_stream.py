"""What waits to be sent on a stream, and large messages in parts."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airloom.errors import InvalidTaskError, OverloadedError, UnreachableError
from airloom.stream import Reassembly, SendQueue, StreamLimits, StreamViolationError
from airloom.stream.reassembly import MessageTooLargeError
from protos.airloom.v1 import fleet_pb2, task_pb2

Request = fleet_pb2.ConnectRequest
LIMITS = StreamLimits(
    message_bytes=1 << 16,
    chunk_bytes=1 << 10,
    unfinished_bytes=1 << 17,
    unfinished_messages=8,
    waiting_messages=16,
)


def ask(correlation_id: int, size: int = 0) -> Request:
    return Request(ask=task_pb2.Task(task_id="a" * size), correlation_id=correlation_id)


def heartbeat(sequence: int) -> Request:
    return Request(heartbeat=fleet_pb2.Heartbeat(sequence=sequence))


def part(correlation_id: int, data: bytes, *, last: bool = False) -> Request:
    return Request(chunk=fleet_pb2.Chunk(data=data, last=last), correlation_id=correlation_id)


async def turn() -> None:
    """Let every coroutine that can go on do so."""
    for _ in range(5):
        await asyncio.sleep(0)


@given(st.lists(st.integers(0, 60_000), min_size=1, max_size=8))
def test_what_is_sent_in_turns_arrives_whole(sizes: list[int]) -> None:
    async def run() -> None:
        outgoing, parts = SendQueue(Request, LIMITS), Reassembly(Request, LIMITS)
        sending = [
            asyncio.ensure_future(outgoing.send(ask(i, size))) for i, size in enumerate(sizes)
        ]
        arrived: dict[int, int] = {}
        wire_bytes = 0
        while len(arrived) < len(sizes):
            message = await outgoing.take()
            assert message.ByteSize() <= LIMITS.chunk_bytes + 32
            wire_bytes += message.ByteSize() + 5
            if (whole := parts.feed(message)) is not None:
                assert whole.correlation_id not in arrived
                arrived[whole.correlation_id] = len(whole.ask.task_id)
            assert parts.held_bytes <= LIMITS.unfinished_bytes
        assert arrived == dict(enumerate(sizes))
        assert sum(await asyncio.gather(*sending)) == wire_bytes
        assert parts.held_bytes == outgoing.waiting == 0

    asyncio.run(run())


async def test_control_messages_wait_for_no_payload_and_payloads_take_turns() -> None:
    outgoing = SendQueue(Request, LIMITS)
    sending = [asyncio.ensure_future(outgoing.send(ask(i, 5000))) for i in (1, 3)]
    await turn()
    assert [(await outgoing.take()).correlation_id for _ in range(3)] == [1, 3, 1]
    outgoing.heartbeat(heartbeat(1))
    outgoing.heartbeat(heartbeat(2))
    outgoing.control(Request(cancel=fleet_pb2.CancelTask(), correlation_id=5))
    assert (await outgoing.take()).HasField("cancel")
    assert (await outgoing.take()).heartbeat.sequence == 2
    assert (await outgoing.take()).correlation_id == 3
    for one in sending:
        one.cancel()
    await asyncio.gather(*sending, return_exceptions=True)
    ends = [await outgoing.take() for _ in sending]
    assert {one.correlation_id for one in ends if one.chunk.withdrawn} == {1, 3}
    taking = asyncio.ensure_future(outgoing.take())
    await turn()
    assert not taking.done()
    taking.cancel()


async def test_too_large_a_message_is_refused_and_the_others_go_on() -> None:
    outgoing = SendQueue(Request, LIMITS)
    innocent = asyncio.ensure_future(outgoing.send(ask(1)))
    with pytest.raises(InvalidTaskError, match="70020 bytes are too many"):
        await outgoing.send(ask(3, 70_000))
    await turn()
    assert (await outgoing.take()).correlation_id == 1
    assert await innocent > 0


async def test_what_is_under_way_stays_within_its_bytes() -> None:
    outgoing = SendQueue(Request, LIMITS)
    sending = [asyncio.ensure_future(outgoing.send(ask(i, 60_000))) for i in (1, 3, 5, 7)]
    small = asyncio.ensure_future(outgoing.send(ask(9)))
    await turn()
    # Two large ones fill it; a small one waits for neither.
    assert outgoing.waiting == 3
    sending[2].cancel()
    while not small.done():
        await outgoing.take()
        await turn()
    sending[0].cancel()
    await turn()
    assert outgoing.waiting == 3  # the withdrawn, the second and the fourth
    outgoing.close(UnreachableError("gone"))
    outcomes = await asyncio.gather(*sending, return_exceptions=True)
    assert [type(one).__name__ for one in outcomes] == [
        "CancelledError",
        "UnreachableError",
        "CancelledError",
        "UnreachableError",
    ]
    with pytest.raises(UnreachableError, match="gone"):
        await outgoing.take()
    with pytest.raises(UnreachableError, match="gone"):
        await outgoing.send(ask(11))


async def test_what_is_withdrawn_half_sent_leaves_nothing_behind_at_the_other_end() -> None:
    outgoing, parts = SendQueue(Request, LIMITS), Reassembly(Request, LIMITS)
    for _ in range(2 * LIMITS.unfinished_messages):
        sending = asyncio.ensure_future(outgoing.send(ask(1, 10_000)))
        await turn()
        assert parts.feed(await outgoing.take()) is None
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    # What comes next under the same number is not taken for the rest of it.
    again = asyncio.ensure_future(outgoing.send(ask(1, 5_000)))
    whole = None
    while whole is None:
        whole = parts.feed(await asyncio.wait_for(outgoing.take(), 10))
    await again
    assert len(whole.ask.task_id) == 5_000
    assert parts.held_bytes == 0
    for correlation_id in range(2, 2 + LIMITS.unfinished_messages):
        assert parts.feed(part(correlation_id, b"0")) is None


@pytest.mark.parametrize("way", ["control", "post"])
async def test_messages_that_nobody_reads_close_the_stream(way: str) -> None:
    outgoing = SendQueue(Request, LIMITS)
    cancel = Request(cancel=fleet_pb2.CancelTask())
    for _ in range(LIMITS.waiting_messages):
        getattr(outgoing, way)(cancel)
    assert outgoing.closed is None
    getattr(outgoing, way)(cancel)
    assert outgoing.waiting == 0
    with pytest.raises(OverloadedError, match="16 messages wait"):
        await outgoing.take()


def test_a_message_that_grows_over_the_limit_ends_alone() -> None:
    parts = Reassembly(Request, LIMITS)
    assert parts.feed(part(1, b"x" * 60_000)) is None
    with pytest.raises(MessageTooLargeError, match="more than 65536 bytes") as caught:
        parts.feed(part(1, b"x" * 10_000))
    assert caught.value.correlation_id == 1
    assert parts.held_bytes == 0
    assert parts.feed(part(1, b"x" * 60_000)) is None
    assert parts.held_bytes == 0
    assert parts.feed(part(1, b"", last=True)) is None
    whole = ask(1)
    assert parts.feed(part(1, whole.SerializeToString(), last=True)) == whole


def test_too_much_that_is_unfinished_ends_the_stream() -> None:
    parts = Reassembly(Request, LIMITS)
    for i in range(LIMITS.unfinished_messages):
        parts.feed(part(i, b"x"))
    with pytest.raises(StreamViolationError, match="parts of 8 messages"):
        parts.feed(part(99, b"x"))
    parts.drop(0)
    parts.feed(part(99, b"x"))
    full = Reassembly(Request, LIMITS)
    full.feed(part(1, b"x" * 60_000))
    full.feed(part(2, b"x" * 60_000))
    with pytest.raises(StreamViolationError, match="hold more than 131072 bytes"):
        full.feed(part(3, b"x" * 20_000))


@given(st.binary(max_size=200))
def test_parts_that_make_no_message_are_a_violation(data: bytes) -> None:
    parts = Reassembly(Request, LIMITS)
    try:
        whole = parts.feed(part(7, data, last=True))
    except StreamViolationError:
        return
    assert whole is not None
    assert whole.correlation_id == 7
    assert not whole.HasField("chunk")
