"""Requests of very many parts, by gRPC."""

from __future__ import annotations

from functools import partial

from benchmarks.attacks.attack import Attack, Outcome, Site, infer_request, outcome_of, task
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


_PARTS = {
    "stops": f"{_MANY:,} stops", "long-stop": "a stop of 1,000,000 characters",
    "parts": f"{_MANY:,} parts", "messages": f"{_MANY:,} messages",
    "adapters": f"{_MANY:,} adapters", "trace": f"a trace context of {_MANY:,} entries",
    "label": "a task_id of 1,000,000 characters",
    "key": "an idempotency_key of 1,000,000 characters",
}  # fmt: skip

ATTACKS = (
    Attack("size/batch", f"a batch of {_MANY:,}", lone_board, _batch, pause_s=1.0),
    *(
        Attack(f"size/{name}", sent, lone_board, partial(_task, name), pause_s=1.0)
        for name, sent in _PARTS.items()
    ),
    Attack("size/texts", f"{_MANY:,} texts to embed", lone_board,
           partial(_embed, ["x"] * _MANY), pause_s=1.0),
    Attack("size/long-text", "a text of 3,000,000 characters to embed", lone_board,
           partial(_embed, ["x" * 3_000_000]), pause_s=1.0),
)  # fmt: skip
