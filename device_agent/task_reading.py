"""What a task says, in the types that a model is asked with."""

from __future__ import annotations

import json

from airloom.errors import InvalidTaskError
from collaboration.prompting import PeerAnswer, compose_question
from device_agent.chat import Message, OutputForm
from device_agent.engine import IMAGE_MARK, Image, Sampling
from protos.airloom.v1 import task_pb2

_ROLES = ("system", "user", "assistant")


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
        if _take_text_or_image(part, texts, images):
            continue
        if kind == "evidence":
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
        if not _take_text_or_image(part, texts, images):
            raise InvalidTaskError(
                f"{where}.parts[{index}] is {part.WhichOneof('content') or 'empty'}: "
                "a conversation has text and image parts"
            )
    return Message(message.role, "\n".join(texts), tuple(images))


def _take_text_or_image(part: task_pb2.Part, texts: list[str], images: list[Image]) -> bool:
    """Take a text or an image; False where the part is something else."""
    kind = part.WhichOneof("content")
    if kind == "text":
        texts.append(part.text.text)
    elif kind == "image":
        texts.append(IMAGE_MARK)
        images.append(Image(part.image.data))
    else:
        return False
    return True


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
