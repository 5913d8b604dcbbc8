"""Carry out a planned run, inside the sandbox, and write everything that happens."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import grpc
import zmq
import zmq.asyncio
from google.protobuf.json_format import MessageToDict

from airloom.errors import CancelledTaskError, UnreachableError
from airloom.identity import Role
from protos.airloom.v1 import (
    fleet_pb2,
    fleet_pb2_grpc,
    telemetry_pb2,
)
from testbed.certificates import issue, make_authority
from testbed.fidelity import check_direction
from testbed.records import EventLog
from testbed.runner import links as link_operations
from testbed.runner.asking import ask_all
from testbed.runner.links import Links
from testbed.runner.plan import CLOUD, RunPlan, cloud_settings, device_settings
from testbed.runner.processes import AgentProcess
from testbed.runner.progress import Progress
from testbed.runner.resolved import provenance

_CONNECT_TIMEOUT_S = 60.0


def _security(plan: RunPlan, folder: Path, name: str) -> dict[str, Any]:
    if plan.scenario.security == "plaintext":
        # The run's links are its own: nobody else can claim a name there.
        return {"plaintext": True} | ({"trust_names": True} if name == CLOUD else {})
    return {
        "ca": str(folder / "ca.crt"),
        "certificate": str(folder / f"{name}.crt"),
        "key": str(folder / f"{name}.key"),
    }


def _make_certificates(plan: RunPlan, folder: Path) -> None:
    if plan.scenario.security == "plaintext":
        return
    make_authority(folder)
    issue(folder, CLOUD, [board.cloud_host for board in plan.boards], roles=[Role.CLOUD])
    for board in plan.boards:
        issue(folder, board.name)


async def _wait_connected(cloud_address: str, plan: RunPlan, agents: list[AgentProcess]) -> None:
    expected = {board.name for board in plan.boards}
    deadline_s = time.monotonic() + _CONNECT_TIMEOUT_S
    async with grpc.aio.insecure_channel(cloud_address) as channel:
        stub = fleet_pb2_grpc.FleetServiceStub(channel)
        while True:
            for agent in agents:
                agent.check_running()
            listed = await stub.ListDevices(fleet_pb2.ListDevicesRequest(), timeout=5.0)
            present = {device.device_id for device in listed.devices}
            if present >= expected:
                return
            if time.monotonic() > deadline_s:
                raise UnreachableError(
                    f"{', '.join(sorted(expected - present))} did not reach the cloud within "
                    f"{_CONNECT_TIMEOUT_S:g} s"
                )
            await asyncio.sleep(0.1)


async def _record_telemetry(endpoint: str, log: EventLog) -> None:
    context = zmq.asyncio.Context()
    socket = context.socket(zmq.SUB)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SUBSCRIBE, b"")
    try:
        socket.bind(endpoint)
        while True:
            _, payload = await socket.recv_multipart()
            sample = telemetry_pb2.TelemetrySample.FromString(payload)
            log.write("telemetry", sample=MessageToDict(sample, preserving_proto_field_name=True))
    finally:
        socket.close()
        context.term()


@contextlib.asynccontextmanager
async def _in_background(*coroutines: Any) -> AsyncIterator[list[asyncio.Task[None]]]:
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _watch(agents: list[AgentProcess], links: Links) -> None:
    while True:
        for agent in agents:
            agent.check_running()
        links.check_running()
        await asyncio.sleep(0.2)


async def _ask_meanwhile(questions: list[Any], meanwhile: list[Any]) -> None:
    """Until all is asked; whatever fails, asked or meanwhile, fails the run."""
    async with _in_background(*questions) as asking, _in_background(*meanwhile) as others:
        pending = {*asking, *others}
        while not pending.isdisjoint(asking):
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()


async def run_plan(plan: RunPlan, folder: Path, progress: Progress) -> None:
    """Run everything; the folder then holds settings, logs, events and measurements."""
    loop = asyncio.get_running_loop()
    this = asyncio.current_task()
    assert this is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, this.cancel)
    # Sockets have short path limits, and nothing of them should stay in the run folder.
    with (
        tempfile.TemporaryDirectory(prefix="airloom-", dir="/run") as scratch,
        EventLog(folder) as log,
    ):
        try:
            await _run(plan, folder, Path(scratch), log, progress)
        except asyncio.CancelledError:
            log.write("interrupted")
            raise CancelledTaskError(
                f"interrupted; what had happened by then is in {folder}"
            ) from None
        except Exception as error:
            log.write("failed", reason=str(error))
            raise


async def _run(
    plan: RunPlan, folder: Path, scratch: Path, log: EventLog, progress: Progress
) -> None:
    log.write("started", scenario=plan.scenario.name, backend=plan.backend, **provenance())
    links = Links()
    agents: list[AgentProcess] = []
    try:
        progress.stage(f"building {len(plan.boards)} links ({plan.backend})")
        await asyncio.to_thread(links.build, plan)
        for board in plan.boards:
            link_operations.write_epoch(scratch / f"{board.name}.epoch", 1)
            kernel = link_operations.read_back(board, plan.backend)
            link_operations.log_conditions(board, 1, board.link.conditions, log, kernel=kernel)
        progress.stage("measuring the links")
        await _measure_links(plan, log, progress)

        progress.stage("starting the agents")
        _make_certificates(plan, scratch)
        cloud = AgentProcess(CLOUD, "cloud_agent.cli", CLOUD, folder / "cloud.log")
        agents.append(cloud)
        security = _security(plan, scratch, CLOUD)
        await cloud.start(cloud_settings(plan.scenario, str(scratch), security))
        for board in plan.boards:
            agent = AgentProcess(
                board.name, "device_agent.cli", board.name, folder / f"{board.name}.log"
            )
            agents.append(agent)
            security = _security(plan, scratch, board.name)
            await agent.start(device_settings(board, str(scratch), security))
        for agent in agents:
            await agent.wait_healthy(f"unix:{scratch}/{agent.name}.sock")
        await _wait_connected(f"unix:{scratch}/{CLOUD}.sock", plan, agents)

        progress.stage("asking")
        before = {board.name: link_operations.air_bytes(board) for board in plan.boards}
        async with _in_background(_record_telemetry(f"ipc://{scratch}/telemetry.sock", log)):
            questions = [
                ask_all(
                    board, plan.scenario.questions, f"{scratch}/{board.name}.sock", log, progress
                )
                for board in plan.boards
            ]
            courses = [
                link_operations.follow_course(board, scratch / f"{board.name}.epoch", log)
                for board in plan.boards
            ]
            await _ask_meanwhile(questions, [_watch(agents, links), *courses])
        for board in plan.boards:
            after = link_operations.air_bytes(board)
            used = {way: after[way] - before[board.name][way] for way in after}
            log.write("air", device=board.name, bytes=used)
    finally:
        progress.stage("stopping")
        await asyncio.gather(*(agent.stop() for agent in agents))
        counters = await asyncio.to_thread(links.stop)
        log.write("stopped", link_counters=counters)


async def _measure_links(plan: RunPlan, log: EventLog, progress: Progress) -> None:
    """Measure every link; one that seems wrong once more, and the second result stands.

    A right one is refused once in a hundred times, and this machine may have been busy.
    """
    boards = list(plan.boards)
    for attempt, probes in enumerate((plan.scenario.probes, 4 * plan.scenario.probes), 1):
        measured = await asyncio.gather(
            *(link_operations.measure(board, probes) for board in boards)
        )
        doubtful = []
        for board, result in zip(boards, measured, strict=True):
            conditions = board.link.conditions
            checks = [
                *check_direction("uplink", conditions.uplink, result["uplink"]),
                *check_direction("downlink", conditions.downlink, result["downlink"]),
            ]
            log.write(
                "measured",
                device=board.name,
                kind=board.entry.link.kind,
                attempt=attempt,
                result=result,
                checks=[asdict(check) for check in checks],
            )
            ok = all(check.ok for check in checks)
            if not ok and attempt == 1:
                doubtful.append(board)
            else:
                progress.link(board.name, board.entry.link.kind, ok)
        boards = doubtful
