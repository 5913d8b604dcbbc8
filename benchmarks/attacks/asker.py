"""The legitimate requests: asked at a steady rate from a process of their own, and checked."""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import grpc

from protos.airloom.v1 import inference_pb2, inference_pb2_grpc, task_pb2

_TIMEOUT_S = 10.0
_SHARE = 0.4
"""Of the time, an agent works for the legitimate: more would be an attack where the machine is slow."""
_TOKENS = 6
SUMS = tuple(f"{a}+{b}" for a, b in itertools.product((12, 23, 47, 58), (25, 31, 64, 85)))
"""The shipped models begin an answer by writing the sum that they were asked."""

Question = Literal["sums", "embeddings"]


@dataclass(frozen=True, slots=True)
class Orders:
    """What to ask, and for how long."""

    socket: Path
    question: Question
    count: int
    rate_per_s: float
    """At most; whether or not those before have been answered: who waits would overlook a stall."""
    open_ended: bool = False
    """Go on after `count` until told that it is enough."""
    limit_s: float = 40.0


@dataclass(slots=True)
class Asked:
    """What became of the requests."""

    latencies_ms: list[float] = field(default_factory=list)
    """Of all; of those that were not answered, the time-out."""
    unanswered: list[str] = field(default_factory=list)
    crossed: int = 0
    """Answers to something else."""
    lasted_s: float = 0.0

    @property
    def p50_ms(self) -> float:
        return statistics.median(self.latencies_ms)


class _Run:
    """One run of orders; replies come on gRPC's threads."""

    def __init__(self, expected: dict[str, Any]) -> None:
        self.asked, self._expected = Asked(), expected
        self._lock, self._done = threading.Lock(), threading.Semaphore(0)

    def told(self, key: str, sent_s: float, call: grpc.Future[Any]) -> None:
        ended_s = time.perf_counter()
        error = call.exception()
        with self._lock:
            if error is not None:
                self.asked.latencies_ms.append(_TIMEOUT_S * 1e3)
                status = error.code().name if isinstance(error, grpc.Call) else str(error)
                self.asked.unanswered.append(status)
            else:
                self.asked.latencies_ms.append((ended_s - sent_s) * 1e3)
                said = _essence(call.result())
                # A text begins with the sum that was asked, whichever model has written it.
                right = (
                    said.startswith(key) if isinstance(said, str) else said == self._expected[key]
                )
                self.asked.crossed += not right
        self._done.release()

    def wait(self, requests: int) -> Asked:
        for _ in range(requests):
            self._done.acquire()
        return self.asked


def _essence(reply: Any) -> Any:
    if isinstance(reply, inference_pb2.EmbedResponse):
        return [round(value, 3) for value in reply.embeddings[0].values[:4]]
    return reply.result.answer.text


def _asking(
    stub: inference_pb2_grpc.InferenceServiceStub, question: Question, key: str
) -> Callable[[], grpc.Future[Any]]:
    if question == "embeddings":
        embed = inference_pb2.EmbedRequest(texts=[key])
        return lambda: stub.Embed.future(embed, timeout=_TIMEOUT_S)
    asked = task_pb2.Task(
        parts=[task_pb2.Part(text=task_pb2.TextPart(text=f"What is {key}?"))],
        sampling=task_pb2.Sampling(max_tokens=_TOKENS),
    )
    request = inference_pb2.InferRequest(task=asked)
    return lambda: stub.Infer.future(request, timeout=_TIMEOUT_S)


class _Learnt:
    """What a stage answers before anybody disturbs, and how long that takes."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.alone_s = 0.0

    def learn(self, asking: dict[str, Callable[[], grpc.Future[Any]]]) -> None:
        """Ask one after the other; twice, for the first time something is always loaded yet."""
        times_s = []
        for key in (*SUMS, *SUMS):
            begin_s = time.perf_counter()
            self.answers[key] = _essence(asking[key]().result())
            times_s.append(time.perf_counter() - begin_s)
        self.alone_s = statistics.median(times_s[len(SUMS) :])


def _ask(orders: Orders, expected: _Learnt, enough: Callable[[], bool]) -> Asked:
    options = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)]
    run, sent = _Run(expected.answers), 0
    with grpc.insecure_channel(f"unix:{orders.socket}", options) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        asking = {key: _asking(stub, orders.question, key) for key in SUMS}
        if not expected.answers:
            expected.learn(asking)
        rate_per_s = min(orders.rate_per_s, _SHARE / expected.alone_s)
        started_s = time.perf_counter()
        for number, key in enumerate(itertools.cycle(SUMS)):
            late_s = time.perf_counter() - started_s
            if number >= orders.count and (
                not orders.open_ended or late_s > orders.limit_s or enough()
            ):
                break
            time.sleep(max(0.0, number / rate_per_s - late_s))
            call, sent_s = asking[key](), time.perf_counter()
            call.add_done_callback(partial(run.told, key, sent_s))
            sent += 1
        run.asked.lasted_s = time.perf_counter() - started_s
        return run.wait(sent)


def _serve(orders: Connection) -> None:
    """Take orders until there are no more; a stage's answers are learnt on its first."""
    expected: dict[Path, _Learnt] = {}
    while True:
        try:
            order = orders.recv()
        except EOFError:
            return
        try:
            orders.send(_ask(order, expected.setdefault(order.socket, _Learnt()), orders.poll))
        except grpc.RpcError as error:
            orders.send(RuntimeError(f"the agent answers nothing: {error}"))
        if order.open_ended:
            orders.recv()


class Asker:
    """The process that asks."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._orders, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)

    def __enter__(self) -> Asker:
        self._process.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.terminate()
        self._process.join()

    async def ask(self, orders: Orders) -> Asked:
        """Ask so many; raises RuntimeError where nothing at all is answered at the start."""
        return await self._reply(orders)

    async def ask_beside(self, orders: Orders, attack: asyncio.Task[Any]) -> Asked:
        """Ask so many, and go on until the attack has been sent."""
        reply = asyncio.create_task(self._reply(orders))
        await asyncio.wait({attack})
        self._orders.send("enough")
        return await reply

    async def _reply(self, orders: Orders) -> Asked:
        self._orders.send(orders)
        reply = await asyncio.to_thread(self._orders.recv)
        if isinstance(reply, Exception):
            raise reply
        assert isinstance(reply, Asked)
        return reply
