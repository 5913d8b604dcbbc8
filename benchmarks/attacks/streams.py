"""Devices whose streams are too large, too many, silent or not read."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from functools import partial
from pathlib import Path

import grpc

from benchmarks.agents import MEBIBYTE
from benchmarks.attacks.attack import (
    AgentSpec,
    Attack,
    Outcome,
    Site,
    Stage,
    infer_request,
    outcome_of,
    task,
    together,
)
from benchmarks.attacks.identity import RawStream, registration
from benchmarks.attacks.stages import (
    HEARTBEAT_S,
    cloud_alone,
    cloud_settings,
    fleet_of_one,
    merged,
)
from benchmarks.proxy import LinkProxy
from benchmarks.runtime.llama_cpp_programs import free_port
from protos.airloom.v1 import fleet_pb2, inference_pb2

_GRPC_LIMIT_BYTES = 4 * MEBIBYTE
_INNOCENT = 30
_LOST = (grpc.StatusCode.UNAVAILABLE,)


async def _one_too_large(extra_bytes: int, site: Site) -> Outcome:
    """Thirty questions and one of about 4 MiB, on one board's stream."""
    async with site.inference("board-a") as stub:
        large = task("What is 1+1? " + "x" * (_GRPC_LIMIT_BYTES + extra_bytes))
        calls = [
            outcome_of(stub.Infer(infer_request(task(f"What is {10 + number}+31?", max_tokens=12))))
            for number in range(_INNOCENT)
        ]
        calls.insert(10, outcome_of(stub.Infer(infer_request(large))))
        outcomes = await asyncio.gather(*calls)
    lost = sum(outcome.said != "answered" for outcome in outcomes[:10] + outcomes[11:])
    if lost:
        return Outcome(f"{_INNOCENT - lost} answered", f"{lost} of {_INNOCENT} others were lost")
    return outcomes[10]


async def _raw_too_large(site: Site) -> Outcome:
    """The same by a stream that no device agent guards: it is this stream's own fault."""
    async with site.dial("board-b") as channel:
        stream = RawStream(channel, registration("board-b"))
        await stream.welcomed()
        large = task("x" * (64 * MEBIBYTE))
        stream.outgoing.put_nowait(fleet_pb2.ConnectRequest(ask=large, correlation_id=1))
        outcome = await outcome_of(_until_over(stream), within_s=10)
        stream.end()
    return outcome


async def _until_over(stream: RawStream) -> None:
    while (reply := await stream.read()) is not None:
        if reply.HasField("result"):
            return
    await stream.raise_for_status()


async def _frozen(site: Site) -> Outcome:
    """A board stops (SIGSTOP) while it is handed much; the cloud must neither hoard nor hope."""
    board, missed = site.agents["board-a"], 3
    payload = "x" * (MEBIBYTE // 2)
    async with site.inference("cloud") as stub, site.fleet("cloud") as fleet:
        board.signal(signal.SIGSTOP)
        started_s = time.monotonic()
        try:
            handing = []
            for _ in range(600):
                call = stub.Infer(infer_request(task(payload), "board-a"))
                handing.append(asyncio.ensure_future(outcome_of(call, allowed=_LOST)))
                await asyncio.sleep(0.002)
            noticed_s = 0.0
            while not noticed_s and time.monotonic() - started_s < 20:
                await asyncio.sleep(0.05)
                listed = await fleet.ListDevices(fleet_pb2.ListDevicesRequest(), timeout=10)
                if not listed.devices:
                    noticed_s = time.monotonic() - started_s
            outcomes = await asyncio.gather(*handing)
        finally:
            board.signal(signal.SIGCONT)
    if not noticed_s:
        return Outcome("unnoticed", "the silence was not noticed within 20 s")
    limit_s = 2 * missed * HEARTBEAT_S + 1
    if noticed_s > limit_s:
        wrong = f"the silence was noticed after {noticed_s:.1f} s, more than {limit_s:g}"
        return Outcome("noticed late", wrong)
    return together(Outcome(f"silence noticed after {noticed_s:.1f} s"), *outcomes)


async def _silent_registrations(site: Site) -> Outcome:
    """Five hundred streams that never say who they are."""
    async with contextlib.AsyncExitStack() as channels:
        streams = []
        for _ in range(10):
            channel = await channels.enter_async_context(site.dial("board-b"))
            streams += [RawStream(channel) for _ in range(50)]
        codes = [asyncio.ensure_future(stream.call.code()) for stream in streams]
        _, waiting = await asyncio.wait(codes, timeout=25)
        for stream in streams:
            stream.end()
        await asyncio.gather(*codes, return_exceptions=True)
    if waiting:
        return Outcome(f"{len(waiting)} stay", f"{len(waiting)} streams may be silent for 25 s")
    return Outcome("each was ended: " + ", ".join({code.result().name for code in codes}))


async def _many_streams(site: Site) -> Outcome:
    """Five hundred registrations of one identity, each of which closes the one before."""
    ended = 0
    async with contextlib.AsyncExitStack() as channels:
        streams = []
        for _ in range(10):
            channel = await channels.enter_async_context(site.dial("board-b"))
            streams += [RawStream(channel, registration("board-b")) for _ in range(50)]
        over = [asyncio.ensure_future(_until_over(stream)) for stream in streams]
        done, _ = await asyncio.wait(over, timeout=8)
        ended = len(done)
        for stream in streams:
            stream.end()
        await asyncio.gather(*over, return_exceptions=True)
    # As many as registered in one instant may not have been told yet.
    wrong = "" if ended >= len(streams) - 1 else f"only {ended} of {len(streams)} were closed"
    return Outcome(f"{ended} of {len(streams)} closed", wrong)


async def _asks_without_end(site: Site) -> Outcome:
    """A device asks 5,000 questions at once and reads no answer."""
    async with site.dial("board-b") as channel:
        stream = RawStream(channel, registration("board-b"))
        await stream.welcomed()
        for number in range(5_000):
            asked = task(f"What is {number}+1? " + "x" * 4000, max_tokens=4)
            request = fleet_pb2.ConnectRequest(ask=asked, correlation_id=number + 1)
            stream.outgoing.put_nowait(request)
        await asyncio.sleep(3)
        stream.end()
    return Outcome("left after 3 s")


async def _unread_answers(site: Site) -> Outcome:
    """Twenty callers stream long answers and do not read them."""
    async with contextlib.AsyncExitStack() as open_ones:
        calls = []
        for number in range(20):
            stub = await open_ones.enter_async_context(site.inference("cloud"))
            asked = task(f"What is {number}+25?", max_tokens=300)
            calls.append(stub.InferStream(inference_pb2.InferStreamRequest(task=asked)))
        await asyncio.sleep(2)
        for call in calls:
            call.cancel()
    return Outcome("left after 2 s")


async def _cancelled(site: Site) -> Outcome:
    """A thousand calls, each cancelled as soon as it is made."""
    async with site.inference("cloud") as stub:
        for number in range(1_000):
            call = stub.Infer(infer_request(task(f"What is {number}+2?")))
            if number % 10 == 0:
                await asyncio.sleep(0.002)
            call.cancel()
    return Outcome("all cancelled")


async def _compressed(site: Site) -> Outcome:
    """256 MiB of zeros, compressed to a quarter of a MiB."""
    async with site.inference("cloud") as stub:
        request = infer_request(task("0" * (256 * MEBIBYTE)))
        return await outcome_of(
            stub.Infer(request, compression=grpc.Compression.Gzip), must_refuse=True
        )


_ONE_WAY_S, _RTT_HEARTBEAT_S = 1.35, 1.0


def _behind_a_slow_link(folder: Path) -> Stage:
    port, slow = free_port(), free_port()
    stage = fleet_of_one(folder, board={"cloud": {"address": f"127.0.0.1:{slow}"}})
    certificates = stage.authority
    assert certificates is not None
    settings = merged(
        cloud_settings(folder, port, certificates.settings("cloud")),
        {"heartbeat_interval_s": _RTT_HEARTBEAT_S},
    )
    agents = {**stage.agents, "cloud": AgentSpec("cloud", settings)}
    return Stage(
        agents, "cloud", authority=certificates, ports={"cloud": port}, registered=("board-a",)
    ).with_helpers(LinkProxy(port, delay_s=_ONE_WAY_S, port=slow))


async def _round_trip(site: Site) -> Outcome:
    """A link whose round trip is longer than the interval of heartbeats."""
    true_ms = 2e3 * _ONE_WAY_S
    async with site.fleet("cloud") as fleet:
        for _ in range(60):
            listed = await fleet.ListDevices(fleet_pb2.ListDevicesRequest(), timeout=10)
            if listed.devices and listed.devices[0].HasField("rtt_ms"):
                break
            await asyncio.sleep(0.25)
        else:
            return Outcome("no round trip told", "no round trip was told within 15 s")
        await asyncio.sleep(3)
        listed = await fleet.ListDevices(fleet_pb2.ListDevicesRequest(), timeout=10)
    told_ms = listed.devices[0].rtt_ms if listed.devices else 0.0
    said = f"true {true_ms:.0f} ms, told {told_ms:.0f} ms"
    return Outcome(said, "" if 0.9 * true_ms < told_ms < 1.2 * true_ms else f"falsified: {said}")


ATTACKS = (
    Attack("stream/one-of-4-MiB", f"a request of just under 4 MiB beside {_INNOCENT} others",
           partial(fleet_of_one, asked="board-a"), partial(_one_too_large, -200), pause_s=2.0),
    Attack("stream/one-over-4-MiB", f"a request of 5 MiB beside {_INNOCENT} others",
           partial(fleet_of_one, asked="board-a"), partial(_one_too_large, MEBIBYTE), pause_s=2.0),
    Attack("stream/64-MiB", "64 MiB in one message of a stream", cloud_alone, _raw_too_large),
    Attack("stream/frozen-board", "300 MiB handed to a board that is stopped", fleet_of_one,
           _frozen, repeated=False, limit_s=60),
    Attack("stream/silent-registrations", "500 streams that never register", cloud_alone,
           _silent_registrations, repeated=False, limit_s=40),
    Attack("stream/many", "500 streams of one identity", cloud_alone, _many_streams,
           repeated=False),
    Attack("stream/asks-without-end", "5,000 asks, no answer read", cloud_alone, _asks_without_end,
           repeated=False),
    Attack("stream/unread", "20 answers that nobody reads", cloud_alone, _unread_answers,
           repeated=False),
    Attack("stream/cancelled", "1,000 calls cancelled at once", cloud_alone, _cancelled,
           pause_s=1.0),
    Attack("stream/compressed", "256 MiB of zeros in 0.25 MiB", cloud_alone, _compressed,
           repeated=False),
    Attack("stream/round-trip", "a round trip of 2.7 s, heartbeats each second",
           _behind_a_slow_link, _round_trip, repeated=False, limit_s=40),
)  # fmt: skip
