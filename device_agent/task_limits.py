"""What a task may be: every field is bounded where a task comes in, by whichever way it comes.

What a field means for a model (sampling, grammars, images) is checked again by the engine's own types.
"""

from __future__ import annotations

from collections.abc import Sequence

from airloom.errors import InvalidTaskError
from device_agent.engine.limits import (
    MAX_ADAPTERS,
    MAX_GRAMMAR_BYTES,
    MAX_IMAGE_BYTES,
    MAX_IMAGES,
    MAX_INT32,
    MAX_NAME_CHARACTERS,
    MAX_PROMPT_BYTES,
    MAX_STOP_CHARACTERS,
    MAX_STOPS,
    check_bytes,
    check_count,
    check_integer,
    check_number,
    check_text,
    refuse,
)
from protos.airloom.v1 import task_pb2

MAX_LABEL_CHARACTERS = 256
MAX_KEY_CHARACTERS = 128
MAX_PARTS, MAX_MESSAGES = 256, 1024
MAX_TOKENS = 1 << 20
MAX_TRACE_ENTRIES, MAX_TRACE_KEY_CHARACTERS, MAX_TRACE_CHARACTERS = 8, 64, 512
MAX_DEADLINE_MS = 30 * 86_400e3
MAX_SOURCE_CHARACTERS = 1024
MEDIA_TYPES = ("", "image/png", "image/jpeg", "image/gif", "image/bmp", "image/webp")
"""Of images; empty where the sender does not know: the bytes say it anyway."""

MAX_BATCH = 256
MAX_TEXTS, MAX_TEXT_BYTES, MAX_TEXTS_BYTES = 64, 256 << 10, 1 << 20
"""Of one call of Embed: its answer, too, must fit into a message."""
MAX_TOKENIZE_BYTES = 1 << 20

_NOT_ACCOUNTED = {
    "cost_micros": "this agent has no price list and could not keep to it: leave it out",
    "energy_joules": "this agent does not measure a task's energy and could not keep to it: "
    "leave it out",
}


def check_task(task: task_pb2.Task, field: str = "task") -> None:
    """Raise InvalidTaskError where a field of a task is out of its bounds; names the field."""
    check_text(f"{field}.task_id", task.task_id, 0, MAX_LABEL_CHARACTERS)
    check_text(f"{field}.idempotency_key", task.idempotency_key, 0, MAX_KEY_CHARACTERS)
    _check_trace(task, f"{field}.trace_context")
    _check_budget(task.budget, f"{field}.budget")
    _check_sampling(task.sampling, f"{field}.sampling")
    check_count(f"{field}.adapters", len(task.adapters), MAX_ADAPTERS)
    for index, use in enumerate(task.adapters):
        check_text(f"{field}.adapters[{index}].name", use.name, 1, MAX_NAME_CHARACTERS)
        check_number(f"{field}.adapters[{index}].scale", use.scale)
    check_count(f"{field}.messages", len(task.messages), MAX_MESSAGES)
    parts = list(_parts(task, field))
    images = sum(part.WhichOneof("content") == "image" for _, part in parts)
    if images > MAX_IMAGES:
        raise InvalidTaskError(f"{field} has {images} images: at most {MAX_IMAGES} are taken")
    size = sum(_check_part(part, where) for where, part in parts)
    if size > MAX_PROMPT_BYTES:
        raise InvalidTaskError(
            f"{field} has {size:,} bytes of text: at most {MAX_PROMPT_BYTES:,} are taken"
        )


def check_batch(tasks: Sequence[task_pb2.Task]) -> None:
    """Raise InvalidTaskError where a batch is empty or too large."""
    if not 1 <= len(tasks) <= MAX_BATCH:
        raise InvalidTaskError(f"tasks has {len(tasks)} elements: 1 to {MAX_BATCH} are taken")


def check_texts(texts: Sequence[str]) -> None:
    """Raise InvalidTaskError where there are too many texts to embed, or they are too long."""
    check_count("texts", len(texts), MAX_TEXTS)
    sizes = [len(text.encode()) for text in texts]
    for index, size in enumerate(sizes):
        _check_size(f"texts[{index}]", size, MAX_TEXT_BYTES)
    _check_size("texts", sum(sizes), MAX_TEXTS_BYTES)


def check_tokenize(text: str) -> None:
    """Raise InvalidTaskError where a text is too long to be split into tokens at once."""
    _check_size("text", len(text.encode()), MAX_TOKENIZE_BYTES)


def _check_size(field: str, size: int, most: int) -> None:
    if size > most:
        raise InvalidTaskError(f"{field} has {size:,} bytes: at most {most:,} are taken")


def _check_trace(task: task_pb2.Task, field: str) -> None:
    check_count(field, len(task.trace_context), MAX_TRACE_ENTRIES)
    for key, value in task.trace_context.items():
        check_text(f"a key of {field}", key, 1, MAX_TRACE_KEY_CHARACTERS)
        check_text(f"{field}[{key!r}]", value, 0, MAX_TRACE_CHARACTERS)


def _check_budget(budget: task_pb2.Budget, field: str) -> None:
    if budget.HasField("deadline_ms"):
        allowed = f"milliseconds from 0 to {MAX_DEADLINE_MS:,.0f} (30 days)"
        check_number(
            f"{field}.deadline_ms", budget.deadline_ms, 0, MAX_DEADLINE_MS, allowed=allowed
        )
    for name, why in _NOT_ACCOUNTED.items():
        if budget.HasField(name):
            raise InvalidTaskError(f"{field}.{name} is set: {why}")
    if budget.residency not in task_pb2.Residency.values():
        raise refuse(f"{field}.residency", budget.residency, "a value of Residency")


def _check_sampling(sampling: task_pb2.Sampling, field: str) -> None:
    check_integer(f"{field}.max_tokens", sampling.max_tokens, 0, MAX_INT32)
    check_count(f"{field}.stop", len(sampling.stop), MAX_STOPS)
    for index, stop in enumerate(sampling.stop):
        check_text(f"{field}.stop[{index}]", stop, 1, MAX_STOP_CHARACTERS)
    for name in ("json_schema", "grammar"):
        if sampling.WhichOneof("form") == name:
            size = len(getattr(sampling, name).encode())
            check_bytes(f"{field}.{name}", size, MAX_GRAMMAR_BYTES)


def _parts(task: task_pb2.Task, field: str) -> list[tuple[str, task_pb2.Part]]:
    """Each part of a task and of its messages, with where it stands."""
    holders = [(f"{field}.parts", task.parts)]
    holders += [
        (f"{field}.messages[{index}].parts", message.parts)
        for index, message in enumerate(task.messages)
    ]
    for where, parts in holders:
        check_count(where, len(parts), MAX_PARTS)
    return [
        (f"{where}[{index}]", part) for where, parts in holders for index, part in enumerate(parts)
    ]


def _check_part(part: task_pb2.Part, field: str) -> int:
    """Check a part; return the bytes of its text."""
    kind = part.WhichOneof("content")
    if kind == "text":
        return _text(f"{field}.text.text", part.text.text)
    if kind == "image":
        if part.image.media_type not in MEDIA_TYPES:
            allowed = f"one of {', '.join(MEDIA_TYPES[1:])}, or empty"
            raise refuse(f"{field}.image.media_type", part.image.media_type, allowed)
        check_bytes(f"{field}.image.data", len(part.image.data), MAX_IMAGE_BYTES)
        return 0
    if kind == "tokens":
        check_count(f"{field}.tokens.token_ids", len(part.tokens.token_ids), MAX_TOKENS)
        check_count(f"{field}.tokens.logprobs", len(part.tokens.logprobs), MAX_TOKENS)
        check_text(f"{field}.tokens.model_sha256", part.tokens.model_sha256, 0, MAX_NAME_CHARACTERS)
        return 0
    if kind == "evidence":
        check_text(f"{field}.evidence.source", part.evidence.source, 0, MAX_SOURCE_CHARACTERS)
        check_number(f"{field}.evidence.relevance", part.evidence.relevance, 0, 1)
        return _text(f"{field}.evidence.text", part.evidence.text)
    if kind == "candidate":
        check_text(f"{field}.candidate.peer", part.candidate.peer, 0, MAX_NAME_CHARACTERS)
        check_number(f"{field}.candidate.confidence.value", part.candidate.confidence.value, 0, 1)
        return _text(f"{field}.candidate.answer", part.candidate.answer)
    if kind == "vote":
        check_text(f"{field}.vote.voter", part.vote.voter, 0, MAX_NAME_CHARACTERS)
        check_number(f"{field}.vote.weight", part.vote.weight)
        return _text(f"{field}.vote.choice", part.vote.choice)
    return 0


def _text(field: str, text: str) -> int:
    size = len(text.encode())
    _check_size(field, size, MAX_PROMPT_BYTES)
    return size
