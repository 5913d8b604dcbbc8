"""A thousand devices that have registered and only send heartbeats: what they cost the cloud."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import tempfile
import time
from collections.abc import AsyncIterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import grpc

from benchmarks.agents import (
    MEBIBYTE,
    AgentProcess,
    shipped_model,
    start,
    unix_channel,
    until_serving,
)
from benchmarks.certificates import Authority
from benchmarks.result import Result
from benchmarks.runtime.llama_cpp_programs import free_port
from protos.airloom.v1 import fleet_pb2, fleet_pb2_grpc

DEVICES, PROCESSES = 1_000, 4
MEASURED_S = 40.0
PROCESSOR_LIMIT, MEMORY_LIMIT_MIB = 0.10, 200.0
_REGISTERED_S = 180.0
_CONNECTING_AT_ONCE = 16


def _name(number: int) -> str:
    return f"device-{number:04d}"


async def _device(
    name: str, address: str, certificates: Authority, connecting: asyncio.Semaphore
) -> None:
    """Register, and send heartbeats as often as the cloud says, until the stream ends."""
    welcome: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    first = fleet_pb2.Registration(device_id=name, protocol="airloom.v1")
    sent_s = 0.0
    rtt_ms: float | None = None

    async def requests() -> AsyncIterator[fleet_pb2.ConnectRequest]:
        nonlocal sent_s
        yield fleet_pb2.ConnectRequest(sent_unix_ns=time.time_ns(), registration=first)
        interval_s, sequence = await welcome, 0
        while True:
            sequence += 1
            heartbeat = fleet_pb2.Heartbeat(sequence=sequence, rtt_ms=rtt_ms)
            sent_s = time.monotonic()
            yield fleet_pb2.ConnectRequest(sent_unix_ns=time.time_ns(), heartbeat=heartbeat)
            await asyncio.sleep(interval_s)

    async with grpc.aio.secure_channel(address, certificates.credentials(name)) as channel:
        call = fleet_pb2_grpc.FleetServiceStub(channel).Connect(requests())
        async with connecting:
            reply: Any = await call.read()
        if not isinstance(reply, fleet_pb2.ConnectResponse) or not reply.HasField("welcome"):
            raise RuntimeError(f"{name} was not welcomed: {await call.code()}")
        welcome.set_result(reply.welcome.heartbeat_interval_ms / 1e3)
        while isinstance(reply := await call.read(), fleet_pb2.ConnectResponse):
            if reply.HasField("heartbeat"):
                rtt_ms = (time.monotonic() - sent_s) * 1e3
        raise RuntimeError(f"{name} was sent away: {await call.code()} {await call.details()}")


async def _devices(numbers: range, address: str, folder: Path) -> None:
    connecting = asyncio.Semaphore(_CONNECTING_AT_ONCE)
    certificates = Authority(folder)
    devices = (_device(_name(number), address, certificates, connecting) for number in numbers)
    await asyncio.gather(*devices)


def _be_devices(numbers: range, address: str, folder: Path, until: Connection) -> None:
    async def main() -> None:
        being = asyncio.create_task(_devices(numbers, address, folder))
        await asyncio.to_thread(until.recv)
        being.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await being

    asyncio.run(main())


async def _registered(folder: Path) -> int:
    options = [("grpc.max_receive_message_length", 64 * MEBIBYTE)]
    async with grpc.aio.insecure_channel(f"unix:{folder}/cloud.sock", options=options) as channel:
        stub = fleet_pb2_grpc.FleetServiceStub(channel)
        reply = await stub.ListDevices(fleet_pb2.ListDevicesRequest(), timeout=30)
        return len(reply.devices)


async def _until_registered(folder: Path) -> None:
    deadline_s, count = time.monotonic() + _REGISTERED_S, 0
    while time.monotonic() < deadline_s:
        if (count := await _registered(folder)) == DEVICES:
            return
        await asyncio.sleep(0.5)
    raise RuntimeError(f"only {count} of {DEVICES} devices registered")


def _settings(folder: Path, port: int, certificates: Authority) -> dict[str, object]:
    """A small model, and the interval of heartbeats that a cloud has unless told otherwise."""
    return {
        "listen": f"127.0.0.1:{port}",
        "local_socket": f"{folder}/cloud.sock",
        "security": certificates.settings("cloud"),
        "model": {"path": shipped_model("mathematics"), "threads": 1, "context_tokens": 128},
    }


async def _watch(cloud: AgentProcess) -> tuple[float, float]:
    """The processor's share and the memory (MiB) of an agent over some time."""
    before_s, started_s = cloud.processor_s, time.monotonic()
    cloud.forget_peak()
    await asyncio.sleep(MEASURED_S)
    share = (cloud.processor_s - before_s) / (time.monotonic() - started_s)
    return share, cloud.peak_resident_bytes / MEBIBYTE


async def _measure(folder: Path) -> list[Result]:
    certificates, port = Authority.make(folder / "certificates"), free_port()
    certificates.issue("cloud", "cloud")
    for number in range(DEVICES):
        certificates.issue(_name(number), "device")
    cloud = await start("cloud", "cloud", _settings(folder, port, certificates), folder)
    context = multiprocessing.get_context("spawn")
    told, children = [], []
    try:
        async with unix_channel(folder / "cloud.sock") as channel:
            await until_serving(cloud, channel)
        alone_mib = cloud.resident_bytes / MEBIBYTE
        for first in range(PROCESSES):
            ours, theirs = context.Pipe()
            numbers = range(first, DEVICES, PROCESSES)
            arguments = (numbers, f"127.0.0.1:{port}", certificates.folder, theirs)
            child = context.Process(target=_be_devices, args=arguments, daemon=True)
            child.start()
            told.append(ours)
            children.append(child)
        await _until_registered(folder)
        await asyncio.sleep(5)
        share, memory_mib = await _watch(cloud)
        left = await _registered(folder)
    finally:
        for ours in told:
            with contextlib.suppress(OSError):
                ours.send("enough")
        for child in children:
            child.join(20)
            child.kill()
        await cloud.stop()
    name = "fleet/idle"
    return [
        Result(f"{name}/registered", left, "devices at the end", "began", DEVICES, 1.0),
        Result(f"{name}/processor", 100 * share, "% of a core", "limit", 100 * PROCESSOR_LIMIT,
               at_most=1.0),
        Result(f"{name}/memory", memory_mib, "MiB, the agent with its model", "limit", MEMORY_LIMIT_MIB,
               at_most=1.0),
        Result(f"{name}/memory-of-devices", memory_mib - alone_mib, "MiB", "limit",
               MEMORY_LIMIT_MIB, at_most=1.0),
    ]  # fmt: skip


def run() -> list[Result]:
    """Register a thousand devices with a certificate each, and watch for forty seconds."""
    with tempfile.TemporaryDirectory(prefix="idle-") as folder:
        return asyncio.run(_measure(Path(folder)))
