"""From a structured task to a model's answer with its provenance."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from airloom.errors import AirloomError, InvalidTaskError
from airloom.tracing import describe_result, task_span
from collaboration.prompting import extract_answer
from collaboration.routing import confidence_value
from device_agent.chat import ChatModel, ChatRequest, Message
from device_agent.config import AnswerSettings
from device_agent.engine import (
    AdapterUse,
    Completion,
    Confidence,
    ModelDescription,
)
from device_agent.task_reading import conversation_of, form_of, question_of, sampling_of
from protos.airloom.v1 import inference_pb2, task_pb2

_FINISH_REASONS = {
    "end": task_pb2.FINISH_REASON_END,
    "stop": task_pb2.FINISH_REASON_STOP,
    "length": task_pb2.FINISH_REASON_LENGTH,
}


class AnswerStream(Protocol):
    """Whoever follows an answer while it is being written."""

    async def text(self, text: str) -> None:
        """The next piece; the one after it comes when this returns."""
        ...

    async def set_aside(self, reason: str) -> None:
        """The text so far does not count any more: another model's follows."""
        ...


class Answerer:
    """Answers tasks with one model, here or behind a URL."""

    def __init__(
        self,
        model: ChatModel,
        settings: AnswerSettings,
        *,
        agent_id: str,
        place: task_pb2.Place,
        measure: str,
        link_epoch: Callable[[], int] = lambda: 0,
    ) -> None:
        self._model = model
        self._settings = settings
        self._agent_id = agent_id
        self._place = place
        self._measure = measure
        self._link_epoch = link_epoch

    @property
    def model_info(self) -> inference_pb2.ModelInfo:
        """The model as a message."""
        return model_info(self._model.description)

    @property
    def link_epoch(self) -> int:
        """The number of the link conditions in force."""
        return self._link_epoch()

    def chat_request(
        self, task: task_pb2.Task, deadline_s: float | None, run_id: str = ""
    ) -> ChatRequest:
        """Write a task as a conversation; raises InvalidTaskError."""
        return ChatRequest(
            messages=self._conversation(task),
            run_id=run_id,
            max_tokens=task.sampling.max_tokens or self._settings.max_tokens,
            sampling=sampling_of(task),
            stop=tuple(task.sampling.stop),
            form=form_of(task),
            adapters=tuple(
                AdapterUse(use.name, use.scale if use.HasField("scale") else 1.0)
                for use in task.adapters
            ),
            deadline_s=deadline_s,
        )

    def _conversation(self, task: task_pb2.Task) -> tuple[Message, ...]:
        if not task.messages:
            question = question_of(task)
            if self._settings.instruction:
                text = f"{question.text}\n{self._settings.instruction}"
                question = Message(question.role, text, question.images)
            return (question,)
        if task.parts:
            raise InvalidTaskError("parts and messages exclude each other: give one of them")
        # Whoever brings a conversation has said in it how to answer: the instruction stays out.
        return conversation_of(task)

    async def answer(
        self,
        task: task_pb2.Task,
        deadline_s: float | None,
        stream: AnswerStream | None = None,
        run_id: str = "",
    ) -> task_pb2.TaskResult:
        """Answer a task; raises AirloomError (deadline, cancellation, overload, bad task)."""
        self._check_residency(task)
        started_s = time.monotonic()
        with task_span("generate", task) as span:
            completion = await self._model.chat(
                self.chat_request(task, deadline_s, run_id), None if stream is None else stream.text
            )
            result = self.result(task.task_id, completion, started_s)
            describe_result(span, result)
        return result

    def _check_residency(self, task: task_pb2.Task) -> None:
        device_only = task.budget.residency == task_pb2.RESIDENCY_DEVICE_ONLY
        if device_only and self._place != task_pb2.PLACE_DEVICE:
            raise InvalidTaskError(
                "task.budget.residency is RESIDENCY_DEVICE_ONLY: a device may answer that, asked "
                "itself or named by device_id, and the cloud may not"
            )

    def result(self, task_id: str, completion: Completion, started_s: float) -> task_pb2.TaskResult:
        """Write a completion as a task's result."""
        return task_pb2.TaskResult(
            task_id=task_id,
            answer=self._message(completion),
            timing=task_pb2.Timing(
                queue_ms=completion.queue_ms,
                prefill_ms=completion.prefill_ms,
                decode_ms=completion.decode_ms,
                total_ms=(time.monotonic() - started_s) * 1e3,
            ),
        )

    def _message(self, completion: Completion) -> task_pb2.Answer:
        c, d = completion.confidence, self._model.description
        marked = extract_answer(completion.text)
        return task_pb2.Answer(
            text=completion.text,
            final_answer=completion.text.strip() if marked is None else marked,
            tokens=task_pb2.TokensPart(
                token_ids=completion.token_ids, logprobs=completion.logprobs, model_sha256=d.sha256
            ),
            confidence=None if c is None else self._confidence(c),
            provenance=task_pb2.Provenance(
                agent_id=self._agent_id,
                place=self._place,
                model_name=d.name,
                model_sha256=d.sha256,
                quantisation=d.quantisation,
                adapter=",".join(f"{use.name}*{use.scale:g}" for use in completion.adapters),
                link_epoch=self._link_epoch(),
            ),
            usage=task_pb2.Usage(
                prompt_tokens=completion.prompt_tokens,
                completion_tokens=completion.completion_tokens,
            ),
            finish_reason=_FINISH_REASONS[completion.finish_reason],
        )

    def _confidence(self, confidence: Confidence) -> task_pb2.Confidence:
        return task_pb2.Confidence(
            value=confidence_value(confidence, self._measure),
            sequence_probability=confidence.sequence_probability,
            mean_logprob=confidence.mean_logprob,
            min_margin=confidence.min_margin,
            mean_entropy_nats=confidence.mean_entropy,
        )


def model_info(description: ModelDescription) -> inference_pb2.ModelInfo:
    """Write a model's description as a message."""
    return inference_pb2.ModelInfo(
        name=description.name,
        architecture=description.architecture,
        quantisation=description.quantisation,
        parameters=description.parameters,
        size_bytes=description.size_bytes,
        vocabulary_size=description.vocabulary_size,
        context_tokens=description.context_tokens,
        sha256=description.sha256,
        reads_images=description.reads_images,
    )


def failure(task_id: str, error: AirloomError) -> task_pb2.TaskResult:
    """Write an error as a task's result."""
    return task_pb2.TaskResult(
        task_id=task_id, error=task_pb2.TaskError(code=int(error.status), message=str(error))
    )
