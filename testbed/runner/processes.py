"""The agents of a run: started in their namespaces, ended in good order."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import grpc
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from airloom.errors import UnreachableError
from testbed.records import write_atomically

_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 10.0


class AgentProcess:
    """One agent in a network namespace, logging to a file of the run folder."""

    def __init__(self, name: str, module: str, namespace: str, log: Path) -> None:
        self.name, self._module, self._namespace, self._log = name, module, namespace, log
        self.process: asyncio.subprocess.Process | None = None

    async def start(self, settings: dict[str, object]) -> None:
        """Write its settings and start it."""
        settings_path = self._log.with_suffix(".yaml")
        write_atomically(settings_path, yaml.safe_dump(settings, sort_keys=False))
        with self._log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                "nsenter",
                f"--net=/run/netns/{self._namespace}",
                sys.executable,
                "-m",
                self._module,
                "run",
                str(settings_path),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    async def wait_healthy(self, address: str) -> None:
        """Wait until the agent serves; UnreachableError holds the end of its log."""
        deadline_s = asyncio.get_running_loop().time() + _START_TIMEOUT_S
        async with grpc.aio.insecure_channel(address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            while True:
                self.check_running()
                try:
                    reply = await stub.Check(health_pb2.HealthCheckRequest(), timeout=2.0)
                    if reply.status == health_pb2.HealthCheckResponse.SERVING:
                        return
                except grpc.aio.AioRpcError as error:
                    if asyncio.get_running_loop().time() > deadline_s:
                        raise UnreachableError(
                            f"{self.name} did not serve within {_START_TIMEOUT_S:g} s: "
                            f"{error.details()}; its log is {self._log}"
                        ) from error
                await asyncio.sleep(0.05)

    def check_running(self) -> None:
        """Raise UnreachableError where the agent has ended, with its last words."""
        if self.process is None or self.process.returncode is None:
            return
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last = lines[-1] if lines else "nothing"
        raise UnreachableError(
            f"{self.name} ended with status {self.process.returncode}; its last words: {last}"
        )

    async def stop(self) -> None:
        """End it by SIGTERM, by SIGKILL where that does not help."""
        if self.process is None or self.process.returncode is not None:
            return
        self.process.terminate()
        try:
            await asyncio.wait_for(self.process.wait(), _STOP_TIMEOUT_S)
        except asyncio.TimeoutError:
            self.process.kill()
            await self.process.wait()
