"""The cascade: answer on the board; ask the cloud where the board is not sure, or cannot.

Where the cloud may be asked, the device's own attempt leaves it a share of the time. A refusal that
another model could mend (too long a prompt, a full queue, an image, an adapter that is not here)
is put to the cloud; one that it could not (an invalid task) is the answer.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

from opentelemetry.trace import SpanKind

from airloom.errors import (
    AirloomError,
    CancelledTaskError,
    DeadlineExceededError,
    OverloadedError,
    Status,
    UnreachableError,
    UnsupportedByModelError,
    explained,
)
from airloom.log_text import one_line
from airloom.tracing import task_span
from collaboration.routing import RoutingSettings, keeps_own_answer
from device_agent.answering import Answerer, AnswerStream
from device_agent.chat import ChatModel
from device_agent.config import DeviceSettings
from device_agent.engine import OnText
from device_agent.task_limits import check_task
from device_agent.task_reading import deadline_of
from device_agent.uplink.uplink import Uplink
from protos.airloom.v1 import task_pb2

log = logging.getLogger(__name__)

_WAY_BACK = 0.05
_SHORTEST_WAY_BACK_S, _LONGEST_WAY_BACK_S = 0.02, 1.0
"""Of the time left, kept for telling the device's own answer where the cloud does not answer."""

OwnAttempt = Callable[[float | None, AnswerStream | None], Awaitable[task_pb2.TaskResult]]
"""Answers with the device's own model, by a deadline (seconds of time.monotonic())."""


class Cloud(Protocol):
    """What the cascade needs of the uplink."""

    @property
    def connected(self) -> bool:
        """Whether there is a stream to the cloud now."""
        ...

    async def ask(
        self, task: task_pb2.Task, deadline_s: float | None, on_text: OnText | None = None
    ) -> task_pb2.TaskResult:
        """The cloud's result, its text told as it comes; raises AirloomError."""
        ...


def read_link_epoch(path: Path | None) -> int:
    """Read the number of the link conditions in force; 0 where nothing says, or nothing readable."""
    if path is None or not path.exists():
        return 0
    try:
        number = int(path.read_text(encoding="ascii")[:32].strip() or 0)
        return number if 0 <= number < 1 << 64 else 0
    except (OSError, ValueError) as error:
        # No answer is worth less for it; the file is somebody else's to mend.
        log.warning("%s holds no number of link conditions: %s", path, one_line(error))
        return 0


class Cascade:
    """Answers every task; asks the cloud where the device is not sure enough, or cannot answer."""

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
        self.cloud: Cloud | None = self.uplink

    @property
    def routing(self) -> RoutingSettings:
        """When the device's own answer is kept."""
        return self._settings.routing

    async def _handle_assignment(self, task: task_pb2.Task) -> task_pb2.TaskResult:
        check_task(task)
        return await self.answerer.answer(task, deadline_of(task, time.monotonic(), None))

    def may_ask_cloud(self, task: task_pb2.Task) -> bool:
        """Whether a cloud is configured and the task may leave the device."""
        return self.cloud is not None and task.budget.residency != task_pb2.RESIDENCY_DEVICE_ONLY

    async def infer(
        self,
        task: task_pb2.Task,
        deadline_s: float | None,
        stream: AnswerStream | None = None,
        run_id: str = "",
    ) -> task_pb2.TaskResult:
        """Answer a task, and say where it was answered and why there.

        `stream` is told the text as it comes and when what was told does not count any more: what it
        is told after the last `set_aside` adds up to the result's text.

        Raises:
            AirloomError: neither the device nor the cloud could answer by the deadline.
        """

        async def own(deadline_s: float | None, stream: AnswerStream | None) -> task_pb2.TaskResult:
            return await self.answerer.answer(task, deadline_s, stream, run_id)

        return await self.answer_or_ask(task, own, deadline_s, stream)

    async def answer_or_ask(
        self,
        task: task_pb2.Task,
        own: OwnAttempt,
        deadline_s: float | None,
        stream: AnswerStream | None = None,
    ) -> task_pb2.TaskResult:
        """As `infer`, with the device's own attempt given: `task` is what the cloud is asked."""
        with task_span("device", task, SpanKind.SERVER):
            if not self.may_ask_cloud(task):
                return await own(deadline_s, stream)
            settled = None if stream is None else _Settled(stream)
            result = await self._answer_or_ask(task, own, deadline_s, settled)
            if settled is not None:
                await settled.settle(result.answer.text)
            return result

    async def _answer_or_ask(
        self,
        task: task_pb2.Task,
        own: OwnAttempt,
        deadline_s: float | None,
        stream: _Settled | None,
    ) -> task_pb2.TaskResult:
        started_s = time.monotonic()
        try:
            answered = await _explained(own(self._own_deadline(deadline_s, started_s), stream))
        except AirloomError as error:
            if not _another_may_answer(error) or _passed(deadline_s):
                raise
            return await self._after_refusal(task, error, started_s, deadline_s, stream)
        confidence = answered.answer.confidence.value
        if keeps_own_answer(confidence, self.routing):
            return answered
        reason = (
            f"the device's confidence {confidence:.3g} is below the threshold "
            f"{self.routing.threshold:g}"
        )
        try:
            result = await self._ask(task, _before(deadline_s), stream, reason)
        except AirloomError as error:
            answered.answer.fallback_reason = str(error)
            if stream is not None and stream.replaced:
                await stream.set_aside(f"the device's own answer after all: {error}")
            answered.timing.total_ms = (time.monotonic() - started_s) * 1e3
            return answered
        result.answer.set_aside.CopyFrom(
            task_pb2.CandidateAnswer(
                peer=self._settings.device_id,
                answer=answered.answer.final_answer,
                confidence=answered.answer.confidence,
                provenance=answered.answer.provenance,
            )
        )
        # The cloud does not know what this device's link is: it is what it was when it asked.
        result.answer.provenance.link_epoch = answered.answer.provenance.link_epoch
        # The device's own attempt is part of what the asker waited for.
        result.timing.queue_ms += answered.timing.queue_ms
        result.timing.prefill_ms += answered.timing.prefill_ms
        result.timing.decode_ms += answered.timing.decode_ms
        result.timing.total_ms = (time.monotonic() - started_s) * 1e3
        return result

    async def _after_refusal(
        self,
        task: task_pb2.Task,
        refusal: AirloomError,
        started_s: float,
        deadline_s: float | None,
        stream: _Settled | None,
    ) -> task_pb2.TaskResult:
        """Ask the cloud what the device could not answer; the refusal stands where it cannot either."""
        reason = f"the device could not answer: {refusal}"
        link_epoch = self.answerer.link_epoch
        try:
            result = await self._ask(task, deadline_s, stream, reason)
        except AirloomError as error:
            raise type(refusal)(f"{refusal}; nor did the cloud answer: {error}") from error
        result.answer.provenance.link_epoch = link_epoch
        result.timing.total_ms = (time.monotonic() - started_s) * 1e3
        return result

    async def _ask(
        self,
        task: task_pb2.Task,
        deadline_s: float | None,
        stream: _Settled | None,
        reason: str,
    ) -> task_pb2.TaskResult:
        """The cloud's answer, streamed; any failure of its is an AirloomError that says so."""
        assert self.cloud is not None
        sent = task_pb2.Task()
        sent.CopyFrom(task)
        # The caller's key joins calls of this caller to this device; the way up has keys of its own.
        sent.ClearField("idempotency_key")

        async def tell(text: str) -> None:
            assert stream is not None
            if not stream.replaced:
                await stream.replace(reason)
            await stream.text(text)

        # The device may have an answer of its own, which a fault on the way up must not take.
        result = await _explained(
            self.cloud.ask(sent, deadline_s, None if stream is None else tell)
        )
        if not result.HasField("answer"):
            raise UnreachableError(f"the cloud failed: {result.error.message or 'no answer'}")
        if stream is not None and not stream.replaced:
            await stream.replace(reason)
        result.answer.escalation_reason = reason
        return result

    def _own_deadline(self, deadline_s: float | None, now_s: float) -> float | None:
        """Until when the device may try: the cloud, where it is there, needs time as well."""
        if deadline_s is None or self.cloud is None or not self.cloud.connected:
            return deadline_s
        return deadline_s - self.routing.cloud_share * max(0.0, deadline_s - now_s)


class _Settled:
    """Passes an answer's text on, and sees to it that it adds up to the result."""

    def __init__(self, stream: AnswerStream) -> None:
        self._stream = stream
        self._told: list[str] = []
        self.replaced = False
        """Whether the cloud's words have taken the place of the device's."""

    async def text(self, text: str) -> None:
        self._told.append(text)
        await self._stream.text(text)

    async def set_aside(self, reason: str) -> None:
        self._told.clear()
        await self._stream.set_aside(reason)

    async def replace(self, reason: str) -> None:
        """The device's words do not count any more; the cloud's follow."""
        self.replaced = True
        await self.set_aside(reason)

    async def settle(self, text: str) -> None:
        """Tell what has not been told of the result's text; all of it where something else was."""
        told = "".join(self._told)
        if not text.startswith(told):
            await self.set_aside("the text that was streamed is not the answer's")
            told = ""
        if rest := text[len(told) :]:
            await self.text(rest)


async def _explained(work: Awaitable[task_pb2.TaskResult]) -> task_pb2.TaskResult:
    """Wait for a result; whatever is raised instead is an AirloomError."""
    try:
        return await work
    except AirloomError:
        raise
    except Exception as error:
        raise explained(error) from error


def _another_may_answer(error: AirloomError) -> bool:
    """Whether a task that was refused here may be answered elsewhere."""
    if isinstance(error, CancelledTaskError):
        return False
    mendable = (UnsupportedByModelError, OverloadedError, DeadlineExceededError)
    return isinstance(error, mendable) or error.status is Status.INTERNAL


def _passed(deadline_s: float | None) -> bool:
    return deadline_s is not None and time.monotonic() >= deadline_s


def _before(deadline_s: float | None) -> float | None:
    """A deadline for the cloud that leaves time to tell the device's own answer."""
    if deadline_s is None:
        return None
    left_s = max(0.0, deadline_s - time.monotonic())
    return deadline_s - min(_LONGEST_WAY_BACK_S, max(_SHORTEST_WAY_BACK_S, _WAY_BACK * left_s))
