"""The device agent: answer on the board, or send the question up."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

from opentelemetry.trace import SpanKind
from prometheus_client import CollectorRegistry

from airloom.concurrency import first_to_end
from airloom.errors import DeadlineExceededError, UnreachableError
from airloom.grpc_server import GrpcServer
from airloom.signals import until_signalled
from airloom.tracing import recording, task_span
from collaboration.routing import keeps_own_answer
from device_agent.answering import Answerer, deadline_of
from device_agent.chat import ChatModel, EngineChat
from device_agent.config import DeviceSettings
from device_agent.engine import OnText
from device_agent.http.server import serve_http
from device_agent.runtime import open_engine
from device_agent.service import InferenceServicer
from device_agent.telemetry import publish
from device_agent.uplink import Uplink
from protos.airloom.v1 import inference_pb2, inference_pb2_grpc, task_pb2

log = logging.getLogger(__name__)


def read_link_epoch(path: Path | None) -> int:
    """Read the number of the link conditions in force; 0 where nothing says."""
    if path is None or not path.exists():
        return 0
    return int(path.read_text(encoding="ascii").strip() or 0)


class DeviceAgent:
    """Answers every task; asks the cloud where it is not sure enough."""

    def __init__(self, settings: DeviceSettings, model: ChatModel) -> None:
        self._settings = settings
        self.answerer = Answerer(
            model,
            settings.model,
            agent_id=settings.device_id,
            place=task_pb2.PLACE_DEVICE,
            measure=settings.routing.measure,
            link_epoch=lambda: read_link_epoch(settings.link_epoch_file),
        )
        self.uplink: Uplink | None = None
        if settings.cloud is not None:
            self.uplink = Uplink(
                settings.cloud,
                device_id=settings.device_id,
                model=self.answerer.model_info,
                handle=self._handle_assignment,
            )

    async def _handle_assignment(self, task: task_pb2.Task) -> task_pb2.TaskResult:
        return await self.answerer.answer(task, deadline_of(task, time.monotonic(), None))

    async def infer(
        self,
        task: task_pb2.Task,
        deadline_s: float | None,
        on_text: OnText | None = None,
    ) -> task_pb2.TaskResult:
        """Answer locally; below the confidence threshold ask the cloud, and say where it was.

        `on_text` is given the device's own words as they come; the result may be the cloud's.
        """
        with task_span("device", task, SpanKind.SERVER):
            return await self._infer(task, deadline_s, on_text)

    async def _infer(
        self, task: task_pb2.Task, deadline_s: float | None, on_text: OnText | None
    ) -> task_pb2.TaskResult:
        started_s = time.monotonic()
        own = await self.answerer.answer(task, deadline_s, on_text)
        sure = keeps_own_answer(own.answer.confidence.value, self._settings.routing)
        if sure or self.uplink is None or task.budget.residency == task_pb2.RESIDENCY_DEVICE_ONLY:
            return own
        try:
            result = await self.uplink.ask(task, deadline_s)
        except (UnreachableError, DeadlineExceededError) as error:
            return self._fall_back(own, str(error), started_s)
        if result.HasField("error"):
            return self._fall_back(own, f"the cloud failed: {result.error.message}", started_s)
        result.answer.set_aside.CopyFrom(
            task_pb2.CandidateAnswer(
                peer=self._settings.device_id,
                answer=own.answer.final_answer,
                confidence=own.answer.confidence,
                provenance=own.answer.provenance,
            )
        )
        # The cloud does not know what this device's link is: it is what it was when it asked.
        result.answer.provenance.link_epoch = own.answer.provenance.link_epoch
        # The device's own attempt is part of what the asker waited for.
        result.timing.queue_ms += own.timing.queue_ms
        result.timing.prefill_ms += own.timing.prefill_ms
        result.timing.decode_ms += own.timing.decode_ms
        result.timing.total_ms = (time.monotonic() - started_s) * 1e3
        return result

    @staticmethod
    def _fall_back(own: task_pb2.TaskResult, reason: str, started_s: float) -> task_pb2.TaskResult:
        own.answer.fallback_reason = reason
        own.timing.total_ms = (time.monotonic() - started_s) * 1e3
        return own


async def serve(settings: DeviceSettings) -> None:
    """Run a device agent until SIGTERM or SIGINT."""
    with recording(settings.tracing, f"device-agent {settings.device_id}"):
        await _serve(settings)


async def _serve(settings: DeviceSettings) -> None:
    registry = CollectorRegistry()
    engine = await open_engine(settings.model, registry)
    try:
        chat = EngineChat(engine)
        agent = DeviceAgent(settings, chat)
        name = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name
        server = GrpcServer(settings.listen, settings.listen_security, [name])
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(
            InferenceServicer(agent.infer, agent.answerer, chat), server.server
        )
        await server.start()
        try:
            work = [until_signalled()]
            if agent.uplink is not None:
                work.append(agent.uplink.run())
            if settings.http is not None:
                work.append(serve_http(chat, registry, settings.http))
            if settings.telemetry is not None:
                work.append(publish(settings.device_id, settings.telemetry))
            await first_to_end(*work)
        finally:
            log.info("stopping")
            await server.stop()
    finally:
        await asyncio.to_thread(engine.close)
