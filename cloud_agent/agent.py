"""The cloud agent: a fleet of devices, and a stronger model behind them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry

from airloom.concurrency import first_to_end, keep_going
from airloom.errors import ConfigurationError
from airloom.grpc_server import GrpcServer
from airloom.identity import Caller
from airloom.signals import until_signalled
from airloom.tracing import recording
from cloud_agent.config import CloudAgentSettings, ServersSettings
from cloud_agent.engines.pool import ServerPool
from cloud_agent.fleet.registry import Registry
from cloud_agent.fleet.servicer import FleetServicer
from cloud_agent.fleet.teams import Teams
from device_agent.answering import Answerer, AnswerStream
from device_agent.chat import ChatModel, EngineChat
from device_agent.config import AnswerSettings
from device_agent.http.server import serve_http
from device_agent.runtime import open_engine, until_engine_failed
from device_agent.service.servicer import Infer, InferenceServicer
from protos.airloom.v1 import (
    fleet_pb2,
    fleet_pb2_grpc,
    inference_pb2,
    inference_pb2_grpc,
    task_pb2,
)

log = logging.getLogger(__name__)


class CloudInferenceServicer(InferenceServicer):
    """Answers in the cloud, or hands a task to the device that the request names."""

    def __init__(
        self,
        answerer: Answerer,
        registry: Registry,
        chat: EngineChat | None,
        teams: Teams,
        *,
        trust_names: bool,
    ) -> None:
        super().__init__(answerer.answer, answerer, chat, trust_names=trust_names)
        self._registry = registry
        self._teams = teams

    def infer_on(self, caller: Caller, device_id: str) -> Infer:
        if not device_id:
            return super().infer_on(caller, "")
        self._teams.check(caller, device_id)

        async def assign(
            task: task_pb2.Task,
            deadline_s: float | None,
            stream: AnswerStream | None = None,
            run_id: str = "",
        ) -> task_pb2.TaskResult:
            del stream, run_id
            # Not before: a result that is kept is there without its device.
            device = self._teams.device(caller, device_id, self._registry)
            return await device.assign(task, deadline_s)

        return assign


async def serve(settings: CloudAgentSettings) -> None:
    """Run a cloud agent until SIGTERM or SIGINT."""
    with recording(settings.tracing, f"cloud-agent {settings.cloud_id}"):
        await _open_and_serve(settings)


async def _open_and_serve(settings: CloudAgentSettings) -> None:
    if settings.model is not None:
        registry = CollectorRegistry()
        engine = await open_engine(settings.model, registry)
        try:
            chat = EngineChat(engine)
            http = settings.http
            background: list[Coroutine[Any, Any, None]] = []
            if http is not None:
                serving = partial(serve_http, chat, registry, http, place="cloud")
                background.append(keep_going("HTTP", serving))
            await _serve(settings, chat, settings.model, chat, background)
        finally:
            await asyncio.to_thread(engine.close)
    elif settings.engines is not None:
        pool = _open_pool(settings.engines)
        try:
            await _serve(settings, pool, settings.engines, None, [keep_going("checks", pool.watch)])
        finally:
            await pool.close()


def _open_pool(settings: ServersSettings) -> ServerPool:
    try:
        from cloud_agent.engines.openai_server import OpenAIServer
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"servers are reached with the package {error.name!r}: install airloom[cloud]",
            field="engines",
        ) from error
    return ServerPool(
        [OpenAIServer(server) for server in settings.servers],
        check_interval_s=settings.check_interval_s,
    )


async def _serve(
    settings: CloudAgentSettings,
    model: ChatModel,
    answers: AnswerSettings,
    chat: EngineChat | None,
    background: list[Coroutine[Any, Any, None]],
) -> None:
    answerer = Answerer(
        model,
        answers,
        agent_id=settings.cloud_id,
        place=task_pb2.PLACE_CLOUD,
        measure="sequence_probability",
    )
    registry = Registry()
    services = [
        module.DESCRIPTOR.services_by_name[name].full_name
        for module, name in ((fleet_pb2, "FleetService"), (inference_pb2, "InferenceService"))
    ]
    server = GrpcServer(settings.listen, settings.security, services, settings.limits)
    trust_names = settings.security.trust_names
    fleet = FleetServicer(
        registry,
        answerer,
        settings.fleet,
        cloud_id=settings.cloud_id,
        heartbeat_interval_s=settings.heartbeat_interval_s,
        synchronised_clocks=settings.synchronised_clocks,
        trust_names=trust_names,
    )
    fleet_pb2_grpc.add_FleetServiceServicer_to_server(fleet, server.server)
    teams = Teams(settings.fleet.teams)
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(
        CloudInferenceServicer(answerer, registry, chat, teams, trust_names=trust_names),
        server.server,
    )
    if settings.local_socket is not None:
        server.listen_locally(settings.local_socket)
    if chat is not None:
        background = [*background, until_engine_failed(chat.engine, server)]
    await server.start()
    try:
        await first_to_end(until_signalled(), keep_going("the watch", fleet.watch), *background)
    finally:
        log.info("stopping")
        await server.stop()
