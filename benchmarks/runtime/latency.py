"""What gRPC and HTTP add to the time until the first token; and what a gRPC stream of nothing takes."""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from multiprocessing.connection import Connection

import grpc.aio
import grpc.experimental
import httpx
import uvloop

from benchmarks.result import Result
from benchmarks.runtime.subjects import Subject, device_agent, shipped
from device_agent.engine import Engine, EngineSettings, GenerateRequest, Model
from netctl.linux import processors_awake
from protos.airloom.v1 import inference_pb2, inference_pb2_grpc, task_pb2

_REQUESTS, _TURNS = 300, 5
_QUESTION = "What is 12+25?"
_GRPC_LIMIT_MS = 1.0
_HTTP_LIMIT_MS = 3.0


async def _median_ms(ask: Callable[[], Awaitable[float]]) -> float:
    return _median_ms_of([await ask() for _ in range(_REQUESTS)])


def _median_ms_of(times_s: list[float]) -> float:
    return statistics.median(times_s[20:]) * 1e3


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


_ON_THE_CALLING_THREAD = [(grpc.experimental.ChannelOptions.SingleThreadedUnaryStream, 1)]
"""gRPC's Python otherwise hands every event to the caller from a thread of its own."""


def _request() -> inference_pb2.InferStreamRequest:
    task = task_pb2.Task(
        task_id="bench",
        parts=[task_pb2.Part(text=task_pb2.TextPart(text=_QUESTION))],
        sampling=task_pb2.Sampling(max_tokens=8),
    )
    return inference_pb2.InferStreamRequest(task=task)


def _through_grpc(address: str) -> float:
    request = _request()
    times: list[float] = []
    with grpc.insecure_channel(address, _ON_THE_CALLING_THREAD) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        for _ in range(_REQUESTS):
            started_s = time.perf_counter()
            first_s = 0.0
            for _ in stub.InferStream(request):
                first_s = first_s or time.perf_counter()
            times.append(first_s - started_s)
    return _median_ms_of(times)


async def _through_asyncio_grpc(address: str) -> float:
    request = _request()
    async with grpc.aio.insecure_channel(address) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)

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


class _Nothing(inference_pb2_grpc.InferenceServiceServicer):
    """Answers at once: what is left is gRPC's own."""

    async def InferStream(  # noqa: N802
        self, request: inference_pb2.InferStreamRequest, context: object
    ) -> AsyncIterator[inference_pb2.InferStreamResponse]:
        del request, context
        yield inference_pb2.InferStreamResponse(text="3")
        yield inference_pb2.InferStreamResponse(result=task_pb2.TaskResult())


async def _serve_nothing(ready: Connection) -> None:
    server = grpc.aio.server()
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(_Nothing(), server)
    ready.send(server.add_insecure_port("127.0.0.1:0"))
    await server.start()
    await server.wait_for_termination()


def _nothing(ready: Connection) -> None:
    uvloop.run(_serve_nothing(ready))


def _through_empty_grpc() -> float:
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_nothing, args=(theirs,), daemon=True)
    process.start()
    median = _through_grpc(f"127.0.0.1:{ours.recv()}")
    process.terminate()
    process.join()
    return median


def run() -> list[Result]:
    """Measure the shipped mathematician, whose first token takes about a millisecond."""
    subject = shipped("mathematics")
    rows: list[tuple[float, ...]] = []
    with processors_awake():
        for _ in range(_TURNS):
            bare = uvloop.run(_bare(subject))
            with device_agent(subject, parallel=4) as agent:
                by_grpc = _through_grpc(agent.grpc)
                by_asyncio = uvloop.run(_through_asyncio_grpc(agent.grpc))
                by_http = uvloop.run(_through_http(agent.url, agent.model))
            rows.append((by_grpc - bare, by_asyncio - bare, by_http - bare, _through_empty_grpc()))
    by_grpc, by_asyncio, by_http, empty = map(statistics.median, zip(*rows, strict=True))
    name = "runtime/ttft-added"
    return [
        Result(f"{name}/grpc", by_grpc, "ms", "limit", _GRPC_LIMIT_MS, at_most=1.0),
        Result(f"{name}/grpc/over-an-empty-stream", by_grpc - empty, "ms", "empty stream", empty),
        Result(
            f"{name}/grpc/asyncio-client", by_asyncio, "ms", "limit", _GRPC_LIMIT_MS, at_most=1.0
        ),
        Result(f"{name}/http", by_http, "ms", "limit", _HTTP_LIMIT_MS, at_most=1.0),
    ]
