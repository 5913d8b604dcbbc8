"""Numbers that no sampler can do anything with, by gRPC."""

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
    together,
)
from benchmarks.attacks.stages import lone_board
from protos.airloom.v1 import inference_pb2, task_pb2

_NAN, _INFINITY = float("nan"), float("inf")

_BAD: dict[str, task_pb2.Sampling] = {
    "top_p-0": task_pb2.Sampling(temperature=1, top_p=0),
    "min_p-2": task_pb2.Sampling(temperature=1, min_p=2),
    "nan-temperature-top_k": task_pb2.Sampling(temperature=_NAN, top_k=3),
    "nan-top_p-top_k": task_pb2.Sampling(temperature=1, top_p=_NAN, top_k=3),
    "negative-temperature": task_pb2.Sampling(temperature=-1),
    "negative-top_p": task_pb2.Sampling(temperature=1, top_p=-0.5),
    "negative-min_p": task_pb2.Sampling(temperature=1, min_p=-3),
    "infinite-temperature": task_pb2.Sampling(temperature=_INFINITY),
    "infinite-penalties": task_pb2.Sampling(
        temperature=1, frequency_penalty=_INFINITY, presence_penalty=-_INFINITY
    ),
    "tiny-temperature": task_pb2.Sampling(temperature=1e-45),
    "largest-integers": task_pb2.Sampling(max_tokens=2**32 - 1, top_k=2**32 - 1, seed=2**64 - 1),
}
_MAY_BE_ANSWERED = ("tiny-temperature", "negative-temperature", "largest-integers")
"""Odd, but with a meaning: at 0 and below the likeliest token is taken, as llama.cpp does."""


async def _send(name: str, site: Site) -> Outcome:
    async with site.inference("board-a") as stub:
        asked = task("What is 12+25?", sampling=_BAD[name])
        must_refuse = name not in _MAY_BE_ANSWERED
        stream = stub.InferStream(inference_pb2.InferStreamRequest(task=asked))

        async def read() -> None:
            async for _ in stream:
                pass

        return together(
            await outcome_of(stub.Infer(infer_request(asked)), must_refuse=must_refuse),
            await outcome_of(read(), must_refuse=must_refuse),
        )


_GROUPS = {
    "top_p-0": ["top_p-0"],
    "min_p-2": ["min_p-2"],
    "no-number-with-top_k": ["nan-temperature-top_k", "nan-top_p-top_k"],
    "negative": ["negative-temperature", "negative-top_p", "negative-min_p"],
    "extreme": [
        "infinite-temperature",
        "infinite-penalties",
        "tiny-temperature",
        "largest-integers",
    ],
}

ATTACKS = tuple(
    Attack(f"sampling/{group}", ", ".join(names), lone_board,
           each_of({name: partial(_send, name) for name in names}))
    for group, names in _GROUPS.items()
)  # fmt: skip
