"""The fleet's gRPC service: who may open a stream, and how it is ended."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc

from airloom.errors import AirloomError
from airloom.grpc_status import end_call
from airloom.identity import Caller, caller_of
from airloom.log_text import one_line
from airloom.stream import MISSED_HEARTBEATS
from cloud_agent.config import FleetSettings
from cloud_agent.fleet.asks import DeviceAsks
from cloud_agent.fleet.registration import StreamCounts, read_registration
from cloud_agent.fleet.registry import ConnectedDevice, DeviceLimits, Registry
from cloud_agent.fleet.stream import DeviceStream
from cloud_agent.fleet.teams import Teams
from device_agent.answering import Answerer
from device_agent.service.idempotency import IdempotentRuns
from protos.airloom.v1 import fleet_pb2, fleet_pb2_grpc, inference_pb2

log = logging.getLogger(__name__)


class FleetServicer(fleet_pb2_grpc.FleetServiceServicer):
    """Serves the devices' streams from a registry and an answerer."""

    def __init__(
        self,
        registry: Registry,
        answerer: Answerer,
        settings: FleetSettings,
        *,
        cloud_id: str,
        heartbeat_interval_s: float,
        synchronised_clocks: bool,
        trust_names: bool,
    ) -> None:
        self._registry = registry
        self._answerer = answerer
        self._settings = settings
        self._cloud_id = cloud_id
        self._heartbeat_interval_s = heartbeat_interval_s
        self._synchronised_clocks = synchronised_clocks
        self._trust_names = trust_names
        self._teams = Teams(settings.teams)
        self._counts = StreamCounts(settings.streams, settings.unregistered_streams)
        self._runs = IdempotentRuns(running_per_caller=settings.asks_in_flight)
        self._limits = DeviceLimits(
            settings.stream, settings.assignments_in_flight, settings.bytes_in_flight
        )

    async def watch(self) -> None:
        """Close the streams of silent devices, until cancelled."""
        await self._registry.watch(
            MISSED_HEARTBEATS * self._heartbeat_interval_s, self._settings.registration_timeout_s
        )

    async def Connect(  # noqa: N802
        self,
        request_iterator: AsyncIterator[fleet_pb2.ConnectRequest],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> None:
        try:
            with self._counts.stream():
                await self._connect(aiter(request_iterator), context)
        except AirloomError as error:
            log.info("stream from %s ended: %s", one_line(context.peer(), 80), error)
            await end_call(context, error)

    async def _connect(
        self,
        requests: AsyncIterator[fleet_pb2.ConnectRequest],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> None:
        caller = caller_of(context, trust_names=self._trust_names)
        with self._counts.handshake(caller):
            device = await self._registered(caller, requests, one_line(context.peer(), 80))
        asks = DeviceAsks(
            device,
            self._answerer,
            self._runs,
            in_flight=self._settings.asks_in_flight,
            grace_s=self._settings.grace_s,
            synchronised_clocks=self._synchronised_clocks,
        )
        self._registry.add(device)
        log.info("%s connected from %s", device.device_id, device.peer_address)
        device.outgoing.control(fleet_pb2.ConnectResponse(welcome=self._welcome()))
        try:
            await DeviceStream(device, asks, requests, context).serve()
        finally:
            self._registry.remove(device)
            log.info("%s left", device.device_id)

    async def _registered(
        self, caller: Caller, requests: AsyncIterator[fleet_pb2.ConnectRequest], peer: str
    ) -> ConnectedDevice:
        registration = await read_registration(requests, self._settings.registration_timeout_s)
        name = caller.registered_name(registration.device_id)
        # Copied: a part would keep the whole message in memory.
        model = inference_pb2.ModelInfo()
        model.CopyFrom(registration.model)
        return ConnectedDevice(name, model, peer, self._limits)

    def _welcome(self) -> fleet_pb2.Welcome:
        return fleet_pb2.Welcome(
            cloud_id=self._cloud_id,
            heartbeat_interval_ms=self._heartbeat_interval_s * 1e3,
            model=self._answerer.model_info,
        )

    async def ListDevices(  # noqa: N802
        self,
        request: fleet_pb2.ListDevicesRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> fleet_pb2.ListDevicesResponse:
        del request
        try:
            caller = caller_of(context, trust_names=self._trust_names)
            visible = self._teams.visible(caller, self._registry)
        except AirloomError as error:
            await end_call(context, error)
        return fleet_pb2.ListDevicesResponse(
            devices=[
                fleet_pb2.Device(
                    device_id=device.device_id,
                    model=device.model,
                    peer_address=device.peer_address,
                    rtt_ms=device.rtt_ms,
                    tasks_in_flight=device.tasks_in_flight,
                )
                for device in visible
            ]
        )
