"""Real agents as processes of their own, and the shipped models."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from device_agent.agent import serve
from device_agent.config import DeviceSettings

sys.path.insert(0, str(Path(__file__).parents[1]))
from shipped import MODELS, ROOT

__all__ = ["MODELS", "PATIENCE_S", "ROOT", "Agent", "Agents", "device_here", "free_port", "healthy"]

PATIENCE_S = 240.0
"""How long anything may take here: a machine may be slow, and busy with other things."""


class Agent:
    """A running agent and its log."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process, self.log_path = process, log

    @property
    def log(self) -> str:
        return self.log_path.read_text(encoding="utf-8")

    async def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.returncode is None:
            self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), PATIENCE_S)


class Agents:
    """Starts agents and ends what is left of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started: list[Agent] = []

    async def start(self, kind: str, name: str, settings: dict[str, Any]) -> Agent:
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(settings), encoding="utf-8")
        log = self.folder / f"{name}.log"
        with log.open("ab") as file:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                f"{kind}_agent.cli",
                "run",
                str(path),
                stdout=file,
                stderr=file,
            )
        agent = Agent(process, log)
        self._started.append(agent)
        return agent

    async def stop_all(self) -> None:
        for agent in self._started:
            with contextlib.suppress(ProcessLookupError):
                await agent.stop(signal.SIGKILL)


@contextlib.asynccontextmanager
async def device_here(settings: dict[str, Any]) -> AsyncIterator[None]:
    """A device agent in this process, where tests can hold its engine, until the block ends."""
    serving = asyncio.ensure_future(serve(DeviceSettings.model_validate(settings)))
    try:
        await healthy(settings["listen"])
        yield
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def healthy(address: str) -> None:
    """Wait until an agent at a plaintext address serves."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest()
        reply = await stub.Check(request, timeout=PATIENCE_S, wait_for_ready=True)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
