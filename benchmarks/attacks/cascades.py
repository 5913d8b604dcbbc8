"""What a board cannot do itself: with a cloud it is answered there, without one it is refused."""

from __future__ import annotations

import asyncio
import base64
import io
from dataclasses import replace
from functools import partial
from pathlib import Path

import grpc
import numpy as np
from matplotlib.image import imsave

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
from benchmarks.attacks.stages import fleet_of_one, lone_board
from protos.airloom.v1 import inference_pb2_grpc, task_pb2

_SMALL = {"model": {"context_tokens": 128, "parallel": 2, "queue_length": 4}}
_LONG = "What is 12+25?" + " Say it slowly." * 12
"""Some 200 tokens: more than the board's context, fewer than the cloud's."""
_BURST = 24
_REFUSED = ("RESOURCE_EXHAUSTED",)


def _alone(folder: Path) -> Stage:
    return replace(lone_board(folder, **_SMALL), rate_per_s=40.0)


def _with_cloud(folder: Path) -> Stage:
    return replace(
        fleet_of_one(folder, asked="board-a", threshold=0.0, board=_SMALL), rate_per_s=40.0
    )


async def _by_cloud(stub: inference_pb2_grpc.InferenceServiceStub, asked: task_pb2.Task) -> Outcome:
    try:
        reply = await stub.Infer(infer_request(asked), timeout=15)
    except grpc.aio.AioRpcError as error:
        return Outcome(error.code().name, f"refused with {error.code().name}: the cloud could")
    place = task_pb2.Place.Name(reply.result.answer.provenance.place)
    return Outcome(f"answered, {place}")


async def _long(with_cloud: bool, site: Site) -> Outcome:
    async with site.inference("board-a") as stub:
        asked = task(_LONG)
        if with_cloud:
            return await _by_cloud(stub, asked)
        return await outcome_of(stub.Infer(infer_request(asked)), must_refuse=True)


async def _burst(with_cloud: bool, site: Site) -> Outcome:
    async with site.inference("board-a") as stub:
        asked = [task(f"What is {10 + number}+25?", max_tokens=20) for number in range(_BURST)]
        if with_cloud:
            return together(*await asyncio.gather(*(_by_cloud(stub, one) for one in asked)))
        calls = (outcome_of(stub.Infer(infer_request(one))) for one in asked)
        return together(*await asyncio.gather(*calls))


def _picture() -> bytes:
    file = io.BytesIO()
    imsave(file, np.zeros((64, 64, 3), np.uint8), format="png")
    return file.getvalue()


async def _image(data: bytes, site: Site) -> Outcome:
    """No model here reads images: whoever is asked says so."""
    asked = task("What is on it?")
    image = task_pb2.ImagePart(media_type="image/png", data=data)
    asked.parts.append(task_pb2.Part(image=image))
    async with site.inference("board-a") as stub:
        return await outcome_of(stub.Infer(infer_request(asked)), must_refuse=True)


async def _limits(site: Site) -> Outcome:
    """What no price list here can keep to is refused rather than passed over."""
    async with site.inference("board-a") as stub:
        budgets = (
            task_pb2.Budget(deadline_ms=1e4, cost_micros=1),
            task_pb2.Budget(deadline_ms=1e4, energy_joules=1e-6),
            task_pb2.Budget(deadline_ms=-5),
            task_pb2.Budget(deadline_ms=float("nan")),
        )
        return together(
            *[
                await outcome_of(
                    stub.Infer(infer_request(task("What is 12+25?", budget=budget))),
                    must_refuse=True,
                )
                for budget in budgets
            ]
        )


_PICTURE = _picture()
_NO_PICTURE = base64.b64decode("iVBORw0KGgo=") + bytes(1000)

ATTACKS = (
    Attack("cascade/long-prompt-alone", "a prompt longer than the context, no cloud", _alone,
           partial(_long, False)),
    Attack("cascade/long-prompt", "a prompt longer than the board's context", _with_cloud,
           partial(_long, True)),
    Attack("cascade/full-queue-alone", f"{_BURST} at once for 2 places and a queue of 4, no cloud",
           _alone, partial(_burst, False), pause_s=0.5, may_refuse=_REFUSED),
    Attack("cascade/full-queue", f"{_BURST} at once for 2 places and a queue of 4", _with_cloud,
           partial(_burst, True), pause_s=0.5),
    Attack("cascade/image-alone", "an image for a model of text, no cloud", _alone,
           partial(_image, _PICTURE)),
    Attack("cascade/image", "an image for models of text, and bytes that are none", _with_cloud,
           each_of({"image": partial(_image, _PICTURE), "none": partial(_image, _NO_PICTURE)})),
    Attack("cascade/budgets", "costs and joules that nobody counts, deadlines below 0", _alone,
           _limits),
)  # fmt: skip
