"""A cloud's fleet service and devices' uplinks in this process, over loopback; the model waits at gates."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import grpc
from agents import free_port

from airloom.concurrency import first_to_end
from airloom.grpc_server import GrpcServer
from airloom.security import ServerSecurity, TransportSecurity
from cloud_agent.agent import CloudInferenceServicer
from cloud_agent.config import FleetSettings
from cloud_agent.fleet.registry import Registry
from cloud_agent.fleet.servicer import FleetServicer
from cloud_agent.fleet.teams import Teams
from device_agent.answering import Answerer
from device_agent.chat import ChatRequest
from device_agent.config import AnswerSettings, CloudSettings
from device_agent.engine import Completion, ModelDescription, OnText
from device_agent.uplink.uplink import Uplink
from protos.airloom.v1 import fleet_pb2_grpc, inference_pb2, inference_pb2_grpc, task_pb2

TRUSTED = ServerSecurity(plaintext=True, trust_names=True)
PLAINTEXT = TransportSecurity(plaintext=True)
PATIENCE_S = 30.0


class GatedModel:
    """Answers "answer to QUESTION" once it may, word by word where it is followed."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.may_speak = asyncio.Event()
        self.may_speak.set()
        self.asked: list[str] = []
        self.cancelled: list[str] = []
        self.changed = asyncio.Event()
        self.failure: Exception | None = None

    @property
    def description(self) -> ModelDescription:
        return ModelDescription("gated", "", "", 0, 0, 0, 0, "")

    async def chat(self, request: ChatRequest, on_text: OnText | None = None) -> Completion:
        question = request.messages[-1].text
        self.asked.append(question)
        self._tell()
        text = f"answer to {question}"
        try:
            if self.failure is not None:
                raise self.failure
            head, tail = text[: len(text) // 2], text[len(text) // 2 :]
            if on_text is not None:
                await self.may_speak.wait()
                await on_text(head)
            await self.may_end.wait()
            if on_text is not None:
                await on_text(tail)
        except asyncio.CancelledError:
            self.cancelled.append(question)
            self._tell()
            raise
        return Completion(text, (), None, "end", 1, 0, 0.0, 0.0, 0.0, 1)

    def _tell(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until the model has been asked, or stopped, as the condition wants."""
        while not condition():
            await asyncio.wait_for(self.changed.wait(), PATIENCE_S)


class Cloud:
    """A cloud agent's gRPC services, and the registry behind them."""

    def __init__(self, address: str, model: GatedModel, registry: Registry) -> None:
        self.address, self.model, self.registry = address, model, registry

    async def until_registered(self, *names: str) -> None:
        async def poll() -> None:
            while sorted(device.device_id for device in self.registry) != sorted(names):
                await asyncio.sleep(0.005)

        await asyncio.wait_for(poll(), PATIENCE_S)


@contextlib.asynccontextmanager
async def running_cloud(
    *,
    model: GatedModel | None = None,
    security: ServerSecurity = TRUSTED,
    port: int | None = None,
    heartbeat_interval_s: float = 0.5,
    **fleet: Any,
) -> AsyncIterator[Cloud]:
    model = model or GatedModel()
    settings = FleetSettings(**fleet)
    answerer = Answerer(
        model,
        AnswerSettings(),
        agent_id="cloud",
        place=task_pb2.PLACE_CLOUD,
        measure="sequence_probability",
    )
    registry = Registry()
    address = f"127.0.0.1:{port or free_port()}"
    server = GrpcServer(address, security, ())
    servicer = FleetServicer(
        registry,
        answerer,
        settings,
        cloud_id="cloud",
        heartbeat_interval_s=heartbeat_interval_s,
        synchronised_clocks=False,
        trust_names=security.trust_names,
    )
    fleet_pb2_grpc.add_FleetServiceServicer_to_server(servicer, server.server)
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(
        CloudInferenceServicer(
            answerer, registry, None, Teams(settings.teams), trust_names=security.trust_names
        ),
        server.server,
    )
    await server.start()
    watching = asyncio.create_task(servicer.watch())
    try:
        yield Cloud(address, model, registry)
    finally:
        watching.cancel()
        await server.server.stop(0)


async def echo(task: task_pb2.Task) -> task_pb2.TaskResult:
    """What a device answers to an assignment."""
    text = f"device's answer to {task.parts[0].text.text}"
    return task_pb2.TaskResult(answer=task_pb2.Answer(text=text))


@contextlib.asynccontextmanager
async def running_uplink(
    address: str,
    device_id: str = "board",
    handle: Callable[[task_pb2.Task], Awaitable[task_pb2.TaskResult]] = echo,
    security: TransportSecurity = PLAINTEXT,
    **settings: Any,
) -> AsyncIterator[Uplink]:
    quick = {"backoff_initial_s": 0.01, "backoff_max_s": 0.1} | settings
    uplink = Uplink(
        CloudSettings(address=address, security=security, **quick),
        device_id=device_id,
        model=inference_pb2.ModelInfo(name="small"),
        handle=handle,
    )
    running = asyncio.create_task(first_to_end(uplink.run()))
    try:
        yield uplink
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def asking(text: str, task_id: str = "", **budget: Any) -> task_pb2.Task:
    return task_pb2.Task(
        task_id=task_id,
        parts=[task_pb2.Part(text=task_pb2.TextPart(text=text))],
        budget=task_pb2.Budget(**budget),
    )


async def infer(
    channel: grpc.aio.Channel, task: task_pb2.Task, device_id: str = ""
) -> task_pb2.TaskResult:
    stub = inference_pb2_grpc.InferenceServiceStub(channel)
    request = inference_pb2.InferRequest(task=task, device_id=device_id)
    return (await stub.Infer(request, timeout=PATIENCE_S)).result


async def all_done(tasks: Sequence[asyncio.Future[Any]]) -> list[Any]:
    return list(await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE_S))
