"""The stream to each device: register it, answer what it asks, collect what it was handed."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
from opentelemetry.trace import SpanKind

from airloom.errors import AirloomError
from airloom.tracing import task_span
from cloud_agent.fleet.registry import ConnectedDevice, Registry
from device_agent.answering import Answerer, deadline_of, failure
from device_agent.uplink import MISSED_HEARTBEATS, PROTOCOL
from protos.airloom.v1 import fleet_pb2, fleet_pb2_grpc, task_pb2

log = logging.getLogger(__name__)


def _forget(asked: dict[str, asyncio.Task[None]], task_id: str, _done: asyncio.Task[None]) -> None:
    asked.pop(task_id, None)


class FleetServicer(fleet_pb2_grpc.FleetServiceServicer):
    """Serves the devices' streams from a registry and an answerer."""

    def __init__(
        self,
        registry: Registry,
        answerer: Answerer,
        *,
        cloud_id: str,
        heartbeat_interval_s: float,
        synchronised_clocks: bool,
    ) -> None:
        self._registry = registry
        self._answerer = answerer
        self._cloud_id = cloud_id
        self._heartbeat_interval_s = heartbeat_interval_s
        self._synchronised_clocks = synchronised_clocks

    async def Connect(  # noqa: N802
        self,
        request_iterator: AsyncIterator[fleet_pb2.ConnectRequest],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> AsyncIterator[fleet_pb2.ConnectResponse]:
        first = await anext(request_iterator, None)
        if first is None or not first.HasField("registration"):
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, "the first message must be a registration"
            )
        registration = first.registration
        if registration.protocol != PROTOCOL:
            await context.abort(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"this cloud speaks {PROTOCOL}, not {registration.protocol!r}",
            )
        device = ConnectedDevice(registration.device_id, registration.model, context.peer())
        self._registry.add(device)
        log.info("%s connected from %s", device.device_id, device.peer_address)
        device.send(
            fleet_pb2.ConnectResponse(
                welcome=fleet_pb2.Welcome(
                    cloud_id=self._cloud_id,
                    heartbeat_interval_ms=self._heartbeat_interval_s * 1e3,
                    model=self._answerer.model_info,
                )
            )
        )
        reading = asyncio.create_task(self._read(device, request_iterator))
        try:
            while True:
                taking = asyncio.create_task(device.outgoing.get())
                await asyncio.wait(
                    {taking, reading},
                    timeout=MISSED_HEARTBEATS * self._heartbeat_interval_s,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if taking.done():
                    yield taking.result()
                    continue
                taking.cancel()
                silent_s = time.monotonic() - device.last_heard_s
                if reading.done() or silent_s > MISSED_HEARTBEATS * self._heartbeat_interval_s:
                    break
        finally:
            reading.cancel()
            self._registry.remove(device)
            log.info("%s left", device.device_id)

    async def _read(
        self, device: ConnectedDevice, requests: AsyncIterator[fleet_pb2.ConnectRequest]
    ) -> None:
        asked: dict[str, asyncio.Task[None]] = {}
        try:
            async for request in requests:
                received_ns = time.time_ns()
                device.last_heard_s = time.monotonic()
                kind = request.WhichOneof("message")
                if kind == "heartbeat":
                    if request.heartbeat.HasField("rtt_ms"):
                        device.rtt_ms = request.heartbeat.rtt_ms
                    device.send(fleet_pb2.ConnectResponse(heartbeat=request.heartbeat))
                elif kind == "ask":
                    uplink_ms = max(0.0, (received_ns - request.sent_unix_ns) / 1e6)
                    task_id = request.ask.task_id
                    asked[task_id] = asyncio.create_task(
                        self._answer(device, request.ask, uplink_ms)
                    )
                    asked[task_id].add_done_callback(functools.partial(_forget, asked, task_id))
                elif kind == "cancel" and request.cancel.task_id in asked:
                    asked[request.cancel.task_id].cancel()
                elif kind == "result":
                    future = device.assigned.get(request.result.task_id)
                    if future is not None and not future.done():
                        future.set_result(request.result)
        finally:
            # The device is gone: nobody waits for these answers any more.
            for answering in asked.values():
                answering.cancel()

    async def _answer(self, device: ConnectedDevice, task: task_pb2.Task, uplink_ms: float) -> None:
        try:
            with task_span("cloud", task, SpanKind.SERVER):
                deadline_s = deadline_of(task, time.monotonic(), None)
                result = await self._answerer.answer(task, deadline_s)
        except AirloomError as error:
            result = failure(task.task_id, error)
        if self._synchronised_clocks:
            result.timing.uplink_ms = uplink_ms
        device.send(fleet_pb2.ConnectResponse(result=result))

    async def ListDevices(  # noqa: N802
        self, request: fleet_pb2.ListDevicesRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> fleet_pb2.ListDevicesResponse:
        del request, context
        return fleet_pb2.ListDevicesResponse(
            devices=[
                fleet_pb2.Device(
                    device_id=device.device_id,
                    model=device.model,
                    peer_address=device.peer_address,
                    rtt_ms=device.rtt_ms,
                    tasks_in_flight=len(device.assigned),
                )
                for device in self._registry
            ]
        )
