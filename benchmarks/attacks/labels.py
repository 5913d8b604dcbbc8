"""The same and empty labels of several callers at once: no answer may go to another question."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import grpc

from benchmarks.attacks.attack import (
    Attack,
    Outcome,
    Site,
    Stage,
    each_of,
    infer_request,
    outcome_of,
    task,
    together,
)
from benchmarks.attacks.handover import LongRun
from benchmarks.attacks.stages import fleet_of_one, lone_board
from protos.airloom.v1 import inference_pb2, inference_pb2_grpc, task_pb2

_SUMS = ("13+46", "21+57", "34+41", "52+36")
Stub = inference_pb2_grpc.InferenceServiceStub
Ask = Callable[[Stub, task_pb2.Task], Awaitable[str]]


async def _infer(stub: Stub, asked: task_pb2.Task, device_id: str = "") -> str:
    reply = await stub.Infer(infer_request(asked, device_id), timeout=15)
    return str(reply.result.answer.text)


async def _stream(stub: Stub, asked: task_pb2.Task) -> str:
    text = ""
    async for event in stub.InferStream(inference_pb2.InferStreamRequest(task=asked), timeout=15):
        if event.HasField("set_aside"):
            text = ""
        text += event.text
    return text


def by_cloud(folder: Path) -> Stage:
    """A board that asks the cloud everything, and is asked itself."""
    return fleet_of_one(folder, asked="board-a")


async def _one(ask: Ask, stub: Stub, label: str, number: int) -> Outcome:
    sum_asked = _SUMS[number]
    asked = task(f"What is {sum_asked}?", task_id=label)
    try:
        text = await asyncio.wait_for(ask(stub, asked), 16)
    except asyncio.TimeoutError:
        return Outcome("no answer", "an asker got no answer")
    except grpc.aio.AioRpcError as error:
        return Outcome(error.code().name, f"an asker was refused: {error.code().name}")
    if text.startswith(sum_asked):
        return Outcome("each its own answer")
    return Outcome("crossed", f"{sum_asked} was answered {text[:20]!r}")


async def _four(agent: str, ask: Ask, label: str, site: Site) -> Outcome:
    async with site.inference(agent) as stub:
        four = (_one(ask, stub, label, number) for number in range(len(_SUMS)))
        return together(*await asyncio.gather(*four))


async def _batch(agent: str, label: str, site: Site) -> Outcome:
    tasks = [task(f"What is {one}?", task_id=label) for one in _SUMS]
    async with site.inference(agent) as stub:
        call = stub.InferBatch(inference_pb2.InferBatchRequest(tasks=tasks), timeout=20)
        texts = sorted([reply.result.answer.text async for reply in call])
    if len(texts) == len(_SUMS) and all(map(str.startswith, texts, sorted(_SUMS))):
        return Outcome("four results, four answers")
    return Outcome("other answers", f"the batch came back as {[text[:8] for text in texts]}")


async def _suspend(site: Site) -> Outcome:
    """Two run under one label; whoever suspends by it must not take the wrong one in silence."""
    async with site.inference("board-a") as stub:
        running = [LongRun(stub), LongRun(stub)]
        for one in running:
            await one.begun()

        async def suspend() -> None:
            request = inference_pb2.SuspendRequest(task_id=LongRun.label)
            async for _ in stub.Suspend(request, timeout=10):
                pass

        suspended = await outcome_of(suspend(), must_refuse=True)
        ended = [await one.end() for one in running]
    if ended != ["answered", "answered"]:
        return Outcome(f"{suspended.said}; {ended}", "a run of that label was lost")
    return suspended


async def _cancel(agent: str, site: Site) -> Outcome:
    """Two run under one label; cancelling the one must not cancel the other."""
    async with site.inference(agent) as stub:
        kept = asyncio.ensure_future(_one(_infer, stub, "label", 0))
        dropped = stub.Infer(infer_request(task("What is 77+18?", task_id="label")))
        await asyncio.sleep(0.004)
        dropped.cancel()
        with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
            await dropped
        return await kept


async def _same_key(site: Site) -> Outcome:
    """A key says that two are one: but other content under it is refused."""
    async with site.inference("board-a") as stub:
        first = task("What is 31+26?", idempotency_key="key")
        texts = await asyncio.gather(*(_infer(stub, first) for _ in range(4)))
        if not all(text.startswith("31+26") for text in texts):
            return Outcome("crossed", f"the same task was answered {texts}")
        other = task("What is 62+17?", idempotency_key="key")
        return await outcome_of(stub.Infer(infer_request(other)), must_refuse=True)


_assign: Ask = partial(_infer, device_id="board-a")
_WAYS: dict[str, tuple[str, Callable[[Path], Stage], str, Ask]] = {
    "infer": ("Infer", lone_board, "board-a", _infer),
    "stream": ("InferStream", lone_board, "board-a", _stream),
    "uplink": ("Infer, all asked up", by_cloud, "board-a", _infer),
    "uplink-stream": ("InferStream, all asked up", by_cloud, "board-a", _stream),
    "assignment": ("handed to one board", fleet_of_one, "cloud", _assign),
}
_LABELS = {"same": "label", "empty": ""}

ATTACKS = (
    *(
        Attack(f"labels/{name}", f"4 at once ({how}), one task_id, and an empty one", stage,
               each_of({which: partial(_four, agent, ask, label)
                        for which, label in _LABELS.items()}))
        for name, (how, stage, agent, ask) in _WAYS.items()
    ),
    Attack("labels/batch", "a batch of 4, one task_id, and an empty one", by_cloud,
           each_of({which: partial(_batch, "board-a", label) for which, label in _LABELS.items()})),
    Attack("labels/suspend", "Suspend by a label that two runs have", lone_board, _suspend,
           pause_s=1.0),
    Attack("labels/cancel", "cancel one of two of a label", by_cloud, partial(_cancel, "board-a")),
    Attack("labels/one-key-two-tasks", "an idempotency_key with other content", lone_board,
           _same_key),
)  # fmt: skip
