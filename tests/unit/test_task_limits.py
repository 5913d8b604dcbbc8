"""Every field of a task is bounded, and a refusal names it."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from airloom.errors import InvalidTaskError
from device_agent import task_limits
from device_agent.task_limits import check_batch, check_task, check_texts, check_tokenize
from protos.airloom.v1 import task_pb2


def task() -> task_pb2.Task:
    return task_pb2.Task(parts=[task_pb2.Part(text=task_pb2.TextPart(text="What is 1+1?"))])


def _trace(t: task_pb2.Task) -> None:
    for number in range(9):
        t.trace_context[str(number)] = ""


def _message(t: task_pb2.Task) -> None:
    part = task_pb2.Part(image=task_pb2.ImagePart(media_type="text/html", data=b"x"))
    t.messages.add(role="user", parts=[part])


def _evidence(t: task_pb2.Task) -> None:
    t.parts.add().evidence.relevance = math.nan


CASES: dict[str, tuple[Callable[[task_pb2.Task], object], str]] = {
    "label": (lambda t: setattr(t, "task_id", "x" * 257), r"task\.task_id has 257 characters"),
    "key": (lambda t: setattr(t, "idempotency_key", "x" * 129), r"task\.idempotency_key has 129"),
    "trace": (_trace, r"task\.trace_context has 9 elements"),
    "trace key": (
        lambda t: t.trace_context.update({"x" * 65: ""}),
        r"a key of task\.trace_context has 65 characters",
    ),
    "trace value": (
        lambda t: t.trace_context.update({"traceparent": "x" * 513}),
        r"task\.trace_context\['traceparent'\] has 513",
    ),
    "no deadline": (
        lambda t: setattr(t.budget, "deadline_ms", math.nan),
        r"task\.budget\.deadline_ms is nan: milliseconds from 0 to",
    ),
    "past deadline": (lambda t: setattr(t.budget, "deadline_ms", -1), r"deadline_ms is -1\.0"),
    "endless deadline": (
        lambda t: setattr(t.budget, "deadline_ms", math.inf),
        r"deadline_ms is inf",
    ),
    "cost": (
        lambda t: setattr(t.budget, "cost_micros", 0),
        r"task\.budget\.cost_micros is set: this agent has no price list",
    ),
    "energy": (
        lambda t: setattr(t.budget, "energy_joules", 5),
        r"task\.budget\.energy_joules is set: this agent does not measure",
    ),
    "residency": (lambda t: setattr(t.budget, "residency", 9), r"task\.budget\.residency is 9"),
    "max_tokens": (
        lambda t: setattr(t.sampling, "max_tokens", 2**32 - 1),
        r"task\.sampling\.max_tokens is",
    ),
    "stops": (lambda t: t.sampling.stop.extend("x" * 17), r"task\.sampling\.stop has 17"),
    "long stop": (
        lambda t: t.sampling.stop.append("x" * 257),
        r"task\.sampling\.stop\[0\] has 257",
    ),
    "empty stop": (lambda t: t.sampling.stop.append(""), r"task\.sampling\.stop\[0\] has 0"),
    "grammar": (
        lambda t: setattr(t.sampling, "grammar", "x" * (1 << 18)),
        r"task\.sampling\.grammar has 262,144 bytes",
    ),
    "adapters": (
        lambda t: t.adapters.extend([task_pb2.AdapterUse(name="a")] * 17),
        r"task\.adapters has 17",
    ),
    "adapter's scale": (
        lambda t: t.adapters.add(name="a", scale=math.inf),
        r"task\.adapters\[0\]\.scale is inf",
    ),
    "parts": (lambda t: t.parts.extend(list(task().parts) * 256), r"task\.parts has 257 elements"),
    "messages": (
        lambda t: t.messages.extend([task_pb2.ChatMessage()] * 1025),
        r"task\.messages has 1,025",
    ),
    "media type": (_message, r"task\.messages\[0\]\.parts\[0\]\.image\.media_type is 'text/html'"),
    "images": (
        lambda t: t.parts.extend([task_pb2.Part(image=task_pb2.ImagePart(data=b"x"))] * 17),
        r"task has 17 images",
    ),
    "relevance": (_evidence, r"task\.parts\[1\]\.evidence\.relevance is nan"),
    "text": (
        lambda t: t.parts.add(text=task_pb2.TextPart(text="x" * ((16 << 20) + 1))),
        r"task\.parts\[1\]\.text\.text has 16,777,217 bytes",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_field_out_of_bounds_is_named(case: str) -> None:
    spoil, says = CASES[case]
    spoiled = task()
    check_task(spoiled)
    spoil(spoiled)
    with pytest.raises(InvalidTaskError, match=says):
        check_task(spoiled)


def test_a_deadline_of_zero_is_a_deadline() -> None:
    hurried = task()
    hurried.budget.deadline_ms = 0
    check_task(hurried)


def test_where_a_task_stands_in_a_batch_is_said() -> None:
    with pytest.raises(InvalidTaskError, match=r"tasks\[3\]\.budget\.cost_micros"):
        check_task(task_pb2.Task(budget=task_pb2.Budget(cost_micros=1)), "tasks[3]")


@pytest.mark.parametrize("count", [0, task_limits.MAX_BATCH + 1])
def test_a_batch_has_a_bounded_number_of_tasks(count: int) -> None:
    with pytest.raises(InvalidTaskError, match=rf"tasks has {count} elements: 1 to 256"):
        check_batch([task()] * count)


def test_texts_to_embed_are_bounded_one_by_one_and_together() -> None:
    check_texts(["x"] * task_limits.MAX_TEXTS)
    for texts, says in (
        (["x"] * 65, "texts has 65 elements"),
        (["x", "x" * ((256 << 10) + 1)], r"texts\[1\] has 262,145 bytes"),
        (["x" * (200 << 10)] * 6, "texts has 1,228,800 bytes"),
    ):
        with pytest.raises(InvalidTaskError, match=says):
            check_texts(texts)
    with pytest.raises(InvalidTaskError, match="text has 1,048,577 bytes"):
        check_tokenize("x" * ((1 << 20) + 1))
