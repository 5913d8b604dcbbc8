"""The cascade: answer on the board, and ask the cloud where the board is not sure enough."""

from __future__ import annotations

import time
from pathlib import Path

from opentelemetry.trace import SpanKind

from airloom.errors import DeadlineExceededError, UnreachableError
from airloom.tracing import task_span
from collaboration.routing import keeps_own_answer
from device_agent.answering import Answerer, AnswerStream, deadline_of
from device_agent.chat import ChatModel
from device_agent.config import DeviceSettings
from device_agent.uplink import Uplink
from protos.airloom.v1 import task_pb2


def read_link_epoch(path: Path | None) -> int:
    """Read the number of the link conditions in force; 0 where nothing says."""
    if path is None or not path.exists():
        return 0
    return int(path.read_text(encoding="ascii").strip() or 0)


class Cascade:
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
        stream: AnswerStream | None = None,
    ) -> task_pb2.TaskResult:
        """Answer locally; below the confidence threshold ask the cloud, and say where it was.

        `stream` is told the device's own words as they come, and when they do not count.
        """
        with task_span("device", task, SpanKind.SERVER):
            return await self._infer(task, deadline_s, stream)

    async def _infer(
        self, task: task_pb2.Task, deadline_s: float | None, stream: AnswerStream | None
    ) -> task_pb2.TaskResult:
        started_s = time.monotonic()
        own = await self.answerer.answer(task, deadline_s, stream)
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
