"""From a structured task to a model's answer with its provenance."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Protocol

from airloom.errors import AirloomError, InvalidTaskError
from airloom.tracing import describe_result, task_span
from collaboration.prompting import PeerAnswer, compose_question, extract_answer
from collaboration.routing import confidence_value
from device_agent.chat import ChatModel, ChatRequest, Message, OutputForm
from device_agent.config import AnswerSettings
from device_agent.engine import (
    IMAGE_MARK,
    AdapterUse,
    Completion,
    Confidence,
    Image,
    ModelDescription,
    Sampling,
)
from protos.airloom.v1 import inference_pb2, task_pb2

_ROLES = ("system", "user", "assistant")

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


def question_of(task: task_pb2.Task) -> Message:
    """Write a task's parts as the message a model reads.

    Raises:
        InvalidTaskError: it has no text, or a part that this version cannot read.
    """
    texts: list[str] = []
    images: list[Image] = []
    peers: list[PeerAnswer] = []
    for index, part in enumerate(task.parts):
        kind = part.WhichOneof("content")
        if kind == "text":
            texts.append(part.text.text)
        elif kind == "image":
            texts.append(IMAGE_MARK)
            images.append(Image(part.image.data))
        elif kind == "evidence":
            texts.append(f"{part.evidence.source}: {part.evidence.text}")
        elif kind == "candidate":
            c = part.candidate
            peers.append(PeerAnswer(c.peer, c.answer, c.confidence.value))
        elif kind == "vote":
            peers.append(PeerAnswer(part.vote.voter, part.vote.choice, part.vote.weight))
        else:
            raise InvalidTaskError(
                f"task {task.task_id!r}: parts[{index}] is {kind or 'empty'}; "
                "this agent reads text, image, evidence, candidate and vote parts"
            )
    if not any(text.strip() and text != IMAGE_MARK for text in texts):
        raise InvalidTaskError(f"task {task.task_id!r} has no text part")
    return Message("user", compose_question("\n".join(texts), peers), tuple(images))


def conversation_of(task: task_pb2.Task) -> tuple[Message, ...]:
    """Read a task's messages as the conversation that a model continues as it stands.

    Raises:
        InvalidTaskError: a role or a part is none that a conversation has, or there is no text.
    """
    conversation = tuple(
        _message_of(message, f"messages[{index}]") for index, message in enumerate(task.messages)
    )
    if not any(message.text.strip() for message in conversation):
        raise InvalidTaskError("messages has no text")
    return conversation


def _message_of(message: task_pb2.ChatMessage, where: str) -> Message:
    if message.role not in _ROLES:
        raise InvalidTaskError(
            f"{where}.role is {message.role[:80]!r}: it should be {', '.join(_ROLES)}"
        )
    texts: list[str] = []
    images: list[Image] = []
    for index, part in enumerate(message.parts):
        kind = part.WhichOneof("content")
        if kind == "text":
            texts.append(part.text.text)
        elif kind == "image":
            texts.append(IMAGE_MARK)
            images.append(Image(part.image.data))
        else:
            raise InvalidTaskError(
                f"{where}.parts[{index}] is {kind or 'empty'}: "
                "a conversation has text and image parts"
            )
    return Message(message.role, "\n".join(texts), tuple(images))


def sampling_of(task: task_pb2.Task) -> Sampling:
    """How a task wants its tokens drawn."""
    wanted = task.sampling
    return Sampling(
        temperature=wanted.temperature,
        top_k=wanted.top_k,
        top_p=wanted.top_p if wanted.HasField("top_p") else 1.0,
        min_p=wanted.min_p,
        frequency_penalty=wanted.frequency_penalty,
        presence_penalty=wanted.presence_penalty,
        seed=wanted.seed,
    )


def form_of(task: task_pb2.Task) -> OutputForm:
    """What a task wants its answer to look like.

    Raises:
        InvalidTaskError: the JSON schema is no JSON object.
    """
    kind = task.sampling.WhichOneof("form")
    if kind == "grammar":
        return OutputForm(grammar=task.sampling.grammar)
    if kind == "json_object":
        return OutputForm(json_object=task.sampling.json_object)
    if kind is None:
        return OutputForm()
    try:
        schema = json.loads(task.sampling.json_schema)
    except json.JSONDecodeError as error:
        raise InvalidTaskError(f"task {task.task_id!r}: json_schema: {error}") from None
    if not isinstance(schema, dict):
        raise InvalidTaskError(f"task {task.task_id!r}: json_schema must be a JSON object")
    return OutputForm(json_schema=schema)


def deadline_of(task: task_pb2.Task, received_s: float, remaining_s: float | None) -> float | None:
    """The earlier of the task's own deadline and the call's, on time.monotonic()'s clock."""
    limits = [] if remaining_s is None else [received_s + remaining_s]
    if task.budget.HasField("deadline_ms"):
        limits.append(received_s + task.budget.deadline_ms / 1e3)
    return min(limits, default=None)


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
