"""The cloud agent: a fleet of devices, and a stronger model behind them."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import grpc

from cloud_agent.config import CloudAgentSettings
from cloud_agent.fleet.registry import Registry
from cloud_agent.fleet.servicer import FleetServicer
from device_agent.answering import Answerer, deadline_of
from device_agent.engine import Engine, Model
from device_agent.server import AgentServer, until_signalled
from device_agent.service import InferenceServicer
from protos.airloom.v1 import (
    fleet_pb2,
    fleet_pb2_grpc,
    inference_pb2,
    inference_pb2_grpc,
    task_pb2,
)
from protos.errors import AirloomError

log = logging.getLogger(__name__)


class CloudInferenceServicer(InferenceServicer):
    """Answers in the cloud, or hands a task to the device that the request names."""

    def __init__(self, answerer: Answerer, registry: Registry) -> None:
        super().__init__(answerer.answer, answerer)
        self._registry = registry

    async def Infer(  # noqa: N802
        self, request: inference_pb2.InferRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> inference_pb2.InferResponse:
        if not request.device_id:
            return await super().Infer(request, context)
        deadline_s = deadline_of(request.task, time.monotonic(), context.time_remaining())
        try:
            device = self._registry.get(request.device_id)
            result = await device.assign(request.task, deadline_s)
        except AirloomError as error:
            await context.abort(error.status, str(error))
        return inference_pb2.InferResponse(result=result)


async def serve(settings: CloudAgentSettings) -> None:
    """Run a cloud agent until SIGTERM or SIGINT."""
    model = Model(
        settings.model.path,
        context_tokens=settings.model.context_tokens,
        threads=settings.model.threads,
    )
    engine = Engine(model, queue_length=settings.model.queue_length)
    try:
        answerer = Answerer(
            engine,
            settings.model,
            agent_id=settings.cloud_id,
            place=task_pb2.PLACE_CLOUD,
            measure="sequence_probability",
        )
        registry = Registry()
        services = [
            module.DESCRIPTOR.services_by_name[name].full_name
            for module, name in ((fleet_pb2, "FleetService"), (inference_pb2, "InferenceService"))
        ]
        server = AgentServer(settings.listen, settings.security, services)
        fleet_pb2_grpc.add_FleetServiceServicer_to_server(
            FleetServicer(
                registry,
                answerer,
                cloud_id=settings.cloud_id,
                heartbeat_interval_s=settings.heartbeat_interval_s,
                synchronised_clocks=settings.synchronised_clocks,
            ),
            server.server,
        )
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(
            CloudInferenceServicer(answerer, registry), server.server
        )
        if settings.local_socket is not None:
            server.listen_locally(settings.local_socket)
        await server.start()
        try:
            await until_signalled()
        finally:
            log.info("stopping")
            await server.stop()
    finally:
        await asyncio.to_thread(engine.close)
