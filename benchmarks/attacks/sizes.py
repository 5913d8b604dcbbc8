"""Requests of very many parts, by gRPC."""

from __future__ import annotations

from functools import partial

from benchmarks.attacks.attack import (
    Attack,
    Outcome,
    Site,
    each_of,
    infer_request,
    outcome_of,
    task,
)
from benchmarks.attacks.stages import lone_board
from protos.airloom.v1 import inference_pb2, task_pb2

_MANY = 100_000


async def _batch(site: Site) -> Outcome:
    tasks = [task_pb2.Task(task_id=str(number)) for number in range(_MANY)]

    async with site.inference("board-a") as stub:

        async def read() -> None:
            async for _ in stub.InferBatch(inference_pb2.InferBatchRequest(tasks=tasks)):
                pass

        return await outcome_of(read(), must_refuse=True)


def _asked(what: str) -> task_pb2.Task:
    asked = task("What is 12+25?")
    if what == "stops":
        asked.sampling.stop.extend(str(number) for number in range(_MANY))
    elif what == "long-stop":
        asked.sampling.stop.append("x" * 1_000_000)
    elif what == "parts":
        asked.parts.extend([asked.parts[0]] * _MANY)
    elif what == "messages":
        message = task_pb2.ChatMessage(role="user", parts=asked.parts)
        del asked.parts[:]
        asked.messages.extend([message] * _MANY)
    elif what == "adapters":
        asked.adapters.extend(task_pb2.AdapterUse(name=f"a{number}") for number in range(_MANY))
    elif what == "trace":
        asked.trace_context.update({f"k{number}": "v" for number in range(_MANY)})
    elif what == "label":
        asked.task_id = "x" * 1_000_000
    elif what == "key":
        asked.idempotency_key = "x" * 1_000_000
    return asked


async def _task(what: str, site: Site) -> Outcome:
    async with site.inference("board-a") as stub:
        return await outcome_of(stub.Infer(infer_request(_asked(what))), must_refuse=True)


async def _embed(texts: list[str], site: Site) -> Outcome:
    async with site.inference("board-a") as stub:
        return await outcome_of(
            stub.Embed(inference_pb2.EmbedRequest(texts=texts)), must_refuse=True
        )


_OTHERS = ("long-stop", "adapters", "trace", "label", "key")

ATTACKS = (
    Attack("size/batch", f"a batch of {_MANY:,}", lone_board, _batch, pause_s=1.0),
    Attack("size/stops", f"{_MANY:,} stops", lone_board, partial(_task, "stops"), pause_s=1.0),
    Attack("size/messages", f"{_MANY:,} messages, and parts", lone_board,
           each_of({name: partial(_task, name) for name in ("messages", "parts")}), pause_s=1.0),
    Attack("size/others", "100,000 adapters, 1 MB of task_id, key, stop, trace context", lone_board,
           each_of({name: partial(_task, name) for name in _OTHERS}), pause_s=1.0),
    Attack("size/texts", f"{_MANY:,} texts to embed, and one of 3,000,000 characters", lone_board,
           each_of({"many": partial(_embed, ["x"] * _MANY),
                    "long": partial(_embed, ["x" * 3_000_000])}), pause_s=1.0),
)  # fmt: skip
