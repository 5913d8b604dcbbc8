"""From a structured task to a model's answer with its provenance."""

from __future__ import annotations

import time
from collections.abc import Callable

from device_agent.config import ModelSettings
from device_agent.engine import Completion, Engine, GenerateRequest, ModelDescription
from device_agent.prompting import PeerAnswer, compose_question, extract_answer
from device_agent.routing import confidence_value
from protos.airloom.v1 import inference_pb2, task_pb2
from protos.errors import AirloomError, InvalidTaskError


def question_of(task: task_pb2.Task) -> str:
    """Write a task's parts as the text a model reads.

    Raises:
        InvalidTaskError: it has no text, or a part that this version cannot read.
    """
    texts: list[str] = []
    peers: list[PeerAnswer] = []
    for index, part in enumerate(task.parts):
        kind = part.WhichOneof("content")
        if kind == "text":
            texts.append(part.text.text)
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
                "this agent reads text, evidence, candidate and vote parts"
            )
    if not any(text.strip() for text in texts):
        raise InvalidTaskError(f"task {task.task_id!r} has no text part")
    return compose_question("\n".join(texts), peers)


def deadline_of(task: task_pb2.Task, received_s: float, remaining_s: float | None) -> float | None:
    """The earlier of the task's own deadline and the call's, on time.monotonic()'s clock."""
    limits = [] if remaining_s is None else [received_s + remaining_s]
    if task.budget.HasField("deadline_ms"):
        limits.append(received_s + task.budget.deadline_ms / 1e3)
    return min(limits, default=None)


class Answerer:
    """Answers tasks with one engine."""

    def __init__(
        self,
        engine: Engine,
        settings: ModelSettings,
        *,
        agent_id: str,
        place: task_pb2.Place,
        measure: str,
        link_epoch: Callable[[], int] = lambda: 0,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._agent_id = agent_id
        self._place = place
        self._measure = measure
        self._link_epoch = link_epoch

    @property
    def model_info(self) -> inference_pb2.ModelInfo:
        """The engine's model as a message."""
        return model_info(self._engine.description)

    async def answer(
        self,
        task: task_pb2.Task,
        deadline_s: float | None,
        on_text: Callable[[str], None] | None = None,
    ) -> task_pb2.TaskResult:
        """Answer a task; raises AirloomError (deadline, cancellation, overload, bad task)."""
        started_s = time.monotonic()
        content = question_of(task)
        if self._settings.instruction:
            content = f"{content}\n{self._settings.instruction}"
        request = GenerateRequest(
            prompt=self._engine.chat_prompt(content),
            max_tokens=task.sampling.max_tokens or self._settings.max_tokens,
            temperature=task.sampling.temperature,
            seed=task.sampling.seed,
            stop=tuple(task.sampling.stop),
            deadline_s=deadline_s,
        )
        completion = await self._engine.generate(request, on_text)
        return task_pb2.TaskResult(
            task_id=task.task_id,
            answer=self._message(completion),
            timing=task_pb2.Timing(
                queue_ms=completion.queue_ms,
                prefill_ms=completion.prefill_ms,
                decode_ms=completion.decode_ms,
                total_ms=(time.monotonic() - started_s) * 1e3,
            ),
        )

    def _message(self, completion: Completion) -> task_pb2.Answer:
        c, d = completion.confidence, self._engine.description
        marked = extract_answer(completion.text)
        return task_pb2.Answer(
            text=completion.text,
            final_answer=completion.text.strip() if marked is None else marked,
            tokens=task_pb2.TokensPart(
                token_ids=completion.tokens, logprobs=completion.logprobs, model_sha256=d.sha256
            ),
            confidence=task_pb2.Confidence(
                value=confidence_value(c, self._measure),
                sequence_probability=c.sequence_probability,
                mean_logprob=c.mean_logprob,
                min_margin=c.min_margin,
                mean_entropy_nats=c.mean_entropy,
            ),
            provenance=task_pb2.Provenance(
                agent_id=self._agent_id,
                place=self._place,
                model_name=d.name,
                model_sha256=d.sha256,
                quantisation=d.quantisation,
                link_epoch=self._link_epoch(),
            ),
            usage=task_pb2.Usage(
                prompt_tokens=completion.prompt_tokens, completion_tokens=len(completion.tokens)
            ),
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
    )


def failure(task_id: str, error: AirloomError) -> task_pb2.TaskResult:
    """Write an error as a task's result."""
    code: int = error.status.value[0]
    return task_pb2.TaskResult(
        task_id=task_id, error=task_pb2.TaskError(code=code, message=str(error))
    )
