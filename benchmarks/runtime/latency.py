"""What gRPC and HTTP add to the time until the first token."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable

import grpc.aio
import httpx
import uvloop

from benchmarks.result import Result
from benchmarks.runtime.subjects import Subject, device_agent, shipped
from device_agent.engine import Engine, EngineSettings, GenerateRequest, Model
from protos.airloom.v1 import inference_pb2, inference_pb2_grpc, task_pb2

_REQUESTS = 300
_QUESTION = "What is 12+25?"
_GRPC_LIMIT_MS = 1.0
_HTTP_LIMIT_MS = 3.0


async def _median_ms(ask: Callable[[], Awaitable[float]]) -> float:
    times = [await ask() for _ in range(_REQUESTS)]
    return statistics.median(times[20:]) * 1e3


async def _bare(subject: Subject) -> float:
    engine = Engine(Model(subject.path), EngineSettings(threads=subject.threads))
    request = GenerateRequest(engine.model.user_prompt(_QUESTION), max_tokens=8)

    async def ask() -> float:
        started_s = time.perf_counter()
        generation = await engine.start(request)
        await anext(aiter(generation))
        first_s = time.perf_counter()
        await generation.completion()
        return first_s - started_s

    median = await _median_ms(ask)
    await asyncio.to_thread(engine.close)
    return median


async def _through_grpc(address: str) -> float:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        task = task_pb2.Task(
            task_id="bench",
            parts=[task_pb2.Part(text=task_pb2.TextPart(text=_QUESTION))],
            sampling=task_pb2.Sampling(max_tokens=8),
        )
        request = inference_pb2.InferStreamRequest(task=task)

        async def ask() -> float:
            started_s = time.perf_counter()
            first_s = 0.0
            async for _ in stub.InferStream(request):
                first_s = first_s or time.perf_counter()
            return first_s - started_s

        return await _median_ms(ask)


async def _through_http(url: str, model: str) -> float:
    body = {
        "model": model, "messages": [{"role": "user", "content": _QUESTION}], "max_tokens": 8,
        "temperature": 0.0, "stream": True,
    }  # fmt: skip
    async with httpx.AsyncClient(base_url=url) as client:

        async def ask() -> float:
            started_s = time.perf_counter()
            first_s, seen = 0.0, b""
            async with client.stream("POST", "/v1/chat/completions", json=body) as response:
                async for part in response.aiter_raw():
                    # The opening event tells the role only.
                    seen += part
                    if not first_s and seen.count(b"data: ") > 1:
                        first_s = time.perf_counter()
            return first_s - started_s

        return await _median_ms(ask)


def run() -> list[Result]:
    """Measure the shipped mathematician, whose first token takes well below a millisecond."""
    subject = shipped("mathematics")
    bare = uvloop.run(_bare(subject))
    with device_agent(subject, parallel=4) as agent:
        by_grpc = uvloop.run(_through_grpc(agent.grpc))
        by_http = uvloop.run(_through_http(agent.url, agent.model))
    return [
        Result(
            "runtime/ttft-added/grpc", by_grpc - bare, "ms", "limit", _GRPC_LIMIT_MS, at_most=1.0
        ),
        Result(
            "runtime/ttft-added/http", by_http - bare, "ms", "limit", _HTTP_LIMIT_MS, at_most=1.0
        ),
    ]
