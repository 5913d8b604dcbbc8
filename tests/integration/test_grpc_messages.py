"""Whatever a caller sends, drawn from the services' own descriptors, is answered or refused in words.

Agents serve in this process. After each call they still answer a question, rightly.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from agents import MODELS, healthy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from messages import messages, requests

from airloom.grpc_server import GrpcServer
from airloom.security import TransportSecurity
from cloud_agent import agent as cloud_agent
from cloud_agent.config import CloudAgentSettings
from device_agent import agent as device_agent
from device_agent.config import DeviceSettings
from netctl.daemon.server import BoardService
from netctl.daemon.settings import DaemonSettings
from protos.airloom.v1 import (
    board_pb2,
    board_pb2_grpc,
    fleet_pb2,
    fleet_pb2_grpc,
    inference_pb2,
    inference_pb2_grpc,
    task_pb2,
)

PATIENCE_S = 120.0
"""What has no answer by then is held to have none."""

PLAINTEXT = {"plaintext": True}
TASK = task_pb2.Task(
    parts=[task_pb2.Part(text=task_pb2.TextPart(text="What is 12+25?"))],
    sampling=task_pb2.Sampling(max_tokens=4),
)
REGISTRATION = fleet_pb2.ConnectRequest(
    registration=fleet_pb2.Registration(device_id="local", protocol="airloom.v1")
)
UNCLEAR = {grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL}

SERVICES = {
    "device": (inference_pb2, "InferenceService"),
    "cloud": (inference_pb2, "InferenceService"),
    "fleet": (fleet_pb2, "FleetService"),
    "board": (board_pb2, "BoardService"),
}
VALID: dict[str, list[Any]] = {
    "Infer": [inference_pb2.InferRequest(task=TASK)],
    "InferStream": [inference_pb2.InferStreamRequest(task=TASK)],
    "InferBatch": [inference_pb2.InferBatchRequest(tasks=[TASK])],
    "Suspend": [inference_pb2.SuspendRequest(task_id="t")],
    "Resume": [inference_pb2.ResumeRequest(task_id="t", chunk=b"state")],
    "Embed": [inference_pb2.EmbedRequest(texts=["one"])],
    "Tokenize": [inference_pb2.TokenizeRequest(text="one")],
    "Connect": [
        REGISTRATION,
        fleet_pb2.ConnectRequest(ask=TASK, correlation_id=1),
        fleet_pb2.ConnectRequest(heartbeat=fleet_pb2.Heartbeat(sequence=1)),
    ],
    "Hold": [
        board_pb2.HoldRequest(take=board_pb2.TakeInterface(interface="air", lease_s=5)),
        board_pb2.HoldRequest(change=board_pb2.ChangeConditions()),
    ],
    "ShowInterface": [board_pb2.ShowInterfaceRequest(interface="air")],
}
"""By method, in the order in which a stream would say them; methods that are told nothing are left out."""

EXAMPLES = {"Infer": 100}
"""What a task can hold is looked at once, for all methods that take tasks."""

REFUSED = {"Suspend", "Resume", "Hold", "ShowInterface"}
"""There is no such task, state or interface."""

METHODS = [
    (server, method.name)
    for server, (module, service) in SERVICES.items()
    for method in module.DESCRIPTOR.services_by_name[service].methods
]


class Servers:
    """A device agent, a cloud agent and a board's link daemon on an event loop of their own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.loop = asyncio.new_event_loop()
        self._agents: list[asyncio.Future[None]] = []
        self.stubs: dict[str, Any] = {}

    async def start(self) -> None:
        model = {"path": str(MODELS["mathematics"]), "threads": 1}
        device, cloud, board = (
            f"unix:{self._folder}/{name}.sock" for name in ("device", "cloud", "board")
        )
        of_device = DeviceSettings.model_validate(
            {"device_id": "device", "listen": device, "listen_security": PLAINTEXT, "model": model}
        )
        of_cloud = CloudAgentSettings.model_validate(
            {
                "listen": f"unix:{self._folder}/air.sock",
                "local_socket": cloud.removeprefix("unix:"),
                "security": PLAINTEXT,
                "model": model,
                "heartbeat_interval_s": PATIENCE_S,
            }
        )
        for serving in (device_agent.serve(of_device), cloud_agent.serve(of_cloud)):
            self._agents.append(asyncio.ensure_future(serving))
        self._daemon = GrpcServer(board, TransportSecurity.model_validate(PLAINTEXT), [])
        # None of this machine's interfaces may be held.
        nothing = DaemonSettings.model_validate(
            {"listen": board, "security": PLAINTEXT, "interfaces": ["air"]}
        )
        board_pb2_grpc.add_BoardServiceServicer_to_server(
            BoardService(nothing), self._daemon.server
        )
        await self._daemon.start()
        for address in (device, cloud, board):
            await healthy(address)
        self._channels = [grpc.insecure_channel(one) for one in (device, cloud, board)]
        for name, channel, stub in (
            ("device", self._channels[0], inference_pb2_grpc.InferenceServiceStub),
            ("cloud", self._channels[1], inference_pb2_grpc.InferenceServiceStub),
            ("fleet", self._channels[1], fleet_pb2_grpc.FleetServiceStub),
            ("board", self._channels[2], board_pb2_grpc.BoardServiceStub),
        ):
            self.stubs[name] = stub(channel)

    async def stop(self) -> None:
        for channel in self._channels:
            channel.close()
        for agent in self._agents:
            agent.cancel()
        await asyncio.gather(*self._agents, return_exceptions=True)
        await self._daemon.stop()

    async def call(self, server: str, name: str, sent: list[Any]) -> grpc.StatusCode:
        """Call a method, and read all that it says; how it ended."""
        module, service = SERVICES[server]
        method = module.DESCRIPTOR.services_by_name[service].methods_by_name[name]
        stub = getattr(self.stubs[server], name)

        def wait() -> grpc.StatusCode:
            try:
                call = stub(iter(sent) if method.client_streaming else sent[0], timeout=PATIENCE_S)
                if method.server_streaming:
                    for _ in call:
                        pass
            except grpc.RpcError as error:
                said = f"{error.code().name}: {error.details()}"
                assert error.code() not in UNCLEAR, said
                assert error.details(), said
                # Which is what gRPC says itself where nobody else has answered.
                assert error.details() != "Deadline Exceeded", said
                return error.code()
            return grpc.StatusCode.OK

        # gRPC's client for event loops calls it an internal error when it is answered while it sends.
        return await asyncio.to_thread(wait)

    async def check_still_right(self) -> None:
        """Ask both agents a question."""
        question = task_pb2.Task(parts=TASK.parts, sampling=task_pb2.Sampling(max_tokens=100))
        for server in ("device", "cloud"):
            request = inference_pb2.InferRequest(task=question)
            reply = await asyncio.to_thread(self.stubs[server].Infer, request, timeout=PATIENCE_S)
            assert reply.result.answer.final_answer == "37", server


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    running = Servers(tmp_path_factory.mktemp("servers"))
    running.loop.run_until_complete(running.start())
    yield running
    running.loop.run_until_complete(running.stop())
    running.loop.close()


@pytest.mark.parametrize(("server", "name"), METHODS)
def test_every_request_is_answered_or_refused_in_words(
    server: str, name: str, servers: Servers
) -> None:
    module, service = SERVICES[server]
    method = module.DESCRIPTOR.services_by_name[service].methods_by_name[name]
    valid = VALID.get(name, [method.input_type._concrete_class()])
    ends = Counter[str]()
    drawn = requests(valid[0]).map(lambda one: [one])
    if method.client_streaming:
        # What is wrong with a later message is not seen where the first is refused.
        drawn = st.tuples(*(st.just(one) | requests(one) for one in valid)).map(list)
        drawn |= st.lists(messages(method.input_type), max_size=4)

    @settings(
        max_examples=EXAMPLES.get(name, 30) if method.input_type.fields else 1,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(drawn)
    def check(sent: list[Any]) -> None:
        ends[servers.loop.run_until_complete(servers.call(server, name, sent)).name] += 1
        servers.loop.run_until_complete(servers.check_still_right())

    check()
    assert name in REFUSED or ends["OK"], ends
