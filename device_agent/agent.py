"""The device agent: its servers, its uplink and its side jobs."""

from __future__ import annotations

import asyncio
import logging

from prometheus_client import CollectorRegistry

from airloom.concurrency import first_to_end, keep_going
from airloom.grpc_server import GrpcServer
from airloom.signals import until_signalled
from airloom.tracing import recording
from device_agent.cascade import Cascade
from device_agent.chat import EngineChat
from device_agent.config import DeviceSettings
from device_agent.http.server import serve_http
from device_agent.runtime import open_engine, until_engine_failed
from device_agent.service.servicer import InferenceServicer
from protos.airloom.v1 import inference_pb2, inference_pb2_grpc

log = logging.getLogger(__name__)


async def serve(settings: DeviceSettings) -> None:
    """Run a device agent until SIGTERM or SIGINT."""
    with recording(settings.tracing, f"device-agent {settings.device_id}"):
        await _serve(settings)


async def _serve(settings: DeviceSettings) -> None:
    registry = CollectorRegistry()
    engine = await open_engine(settings.model, registry)
    try:
        chat = EngineChat(engine)
        cascade = Cascade(settings, chat)
        service = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name
        server = GrpcServer(settings.listen, settings.listen_security, [service], settings.limits)
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(
            InferenceServicer(
                cascade.infer,
                cascade.answerer,
                chat,
                trust_names=settings.listen_security.trust_names,
            ),
            server.server,
        )
        await server.start()
        try:
            work = [until_signalled(), until_engine_failed(engine, server)]
            uplink, http, telemetry = cascade.uplink, settings.http, settings.telemetry
            if uplink is not None:
                work.append(keep_going("the uplink", uplink.run))
            if http is not None:
                work.append(keep_going("HTTP", lambda: serve_http(chat, registry, http, cascade)))
            if telemetry is not None:
                # As with HTTP, only boards that publish load what it takes.
                from device_agent.telemetry import publish

                name = settings.device_id
                work.append(keep_going("telemetry", lambda: publish(name, telemetry)))
            await first_to_end(*work)
        finally:
            log.info("stopping")
            await server.stop()
    finally:
        await asyncio.to_thread(engine.close)
