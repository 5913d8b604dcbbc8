"""What of OpenAI's requests the cloud can be asked, and its answers as the engine's would be."""

from __future__ import annotations

import json

from device_agent.engine import Completion, GenerateRequest, Sampling
from device_agent.engine.requests import FinishReason
from device_agent.http import schemas
from device_agent.http.translate import image_of, role_of
from protos.airloom.v1 import task_pb2

_FINISH: dict[int, FinishReason] = {
    task_pb2.FINISH_REASON_STOP: "stop",
    task_pb2.FINISH_REASON_LENGTH: "length",
}

Body = schemas.ChatCompletionRequest | schemas.CompletionRequest


def task_of(body: Body, wanted: list[GenerateRequest]) -> task_pb2.Task | None:
    """The request as a task for the cloud; None where only this board can do what it asks.

    That are token ids and biases (the cloud's vocabulary is another), log-probabilities, adapters of
    this board, several choices, and going on after the end.
    """
    (first, *others) = wanted
    only_here = (
        others,
        body.logprobs is not None and body.logprobs is not False,
        first.adapters,
        first.ignore_end,
        first.sampling.logit_bias,
    )
    if any(only_here):
        return None
    task = task_pb2.Task(sampling=_sampling(first.sampling))
    task.sampling.stop.extend(first.stop)
    if isinstance(body, schemas.ChatCompletionRequest):
        asked = body.max_completion_tokens or body.max_tokens
        task.messages.extend(_turn(message) for message in body.messages)
        _set_form(task.sampling, body)
    elif isinstance(first.prompt, str):
        asked = first.max_tokens if body.max_tokens is None else body.max_tokens
        task.messages.add(role="user").parts.add().text.text = first.prompt
    else:
        return None
    # Without a limit of the client's, the cloud's own: its context is not this board's.
    task.sampling.max_tokens = asked if asked and asked > 0 else 0
    return task


def _sampling(sampling: Sampling) -> task_pb2.Sampling:
    return task_pb2.Sampling(
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        frequency_penalty=sampling.frequency_penalty,
        presence_penalty=sampling.presence_penalty,
        seed=sampling.seed,
    )


def _set_form(sampling: task_pb2.Sampling, body: schemas.ChatCompletionRequest) -> None:
    wanted = body.response_format
    if isinstance(wanted, schemas.JsonSchema):
        sampling.json_schema = json.dumps(wanted.json_schema.schema_)
    elif isinstance(wanted, schemas.JsonObject):
        sampling.json_object = True


def _turn(message: schemas.ChatMessage) -> task_pb2.ChatMessage:
    turn = task_pb2.ChatMessage(role=role_of(message))
    content = message.content or ""
    if isinstance(content, str):
        turn.parts.add().text.text = content
        return turn
    for part in content:
        if isinstance(part, schemas.TextPart):
            turn.parts.add().text.text = part.text
        else:
            turn.parts.add().image.data = image_of(part).data
    return turn


def completion_of(answer: task_pb2.Answer) -> Completion:
    """The cloud's answer in the engine's terms."""
    return Completion(
        text=answer.text,
        tokens=(),
        confidence=None,
        finish_reason=_FINISH.get(answer.finish_reason, "end"),
        prompt_tokens=answer.usage.prompt_tokens,
        cached_tokens=0,
        queue_ms=0.0,
        prefill_ms=0.0,
        decode_ms=0.0,
        completion_tokens=answer.usage.completion_tokens,
    )
