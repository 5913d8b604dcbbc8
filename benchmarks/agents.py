"""Real agents as processes of their own, watched from outside."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Literal

import grpc
import psutil
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

MEBIBYTE = 1 << 20
MODELS = Path("models").resolve()
_START_S = 60.0
_STOP_S = 10.0

Kind = Literal["device", "cloud"]


def shipped_model(name: str) -> str:
    """The path of one of the models in models/."""
    return str(MODELS / f"airloom-{name}.Q8_0.gguf")


class AgentProcess:
    """A running agent, its log, and what the kernel says of it."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process, self.log_path = process, log
        self._seen = psutil.Process(process.pid)

    @property
    def alive(self) -> bool:
        return self.process.returncode is None

    @property
    def log(self) -> str:
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    @property
    def resident_bytes(self) -> int:
        """Of memory, now; 0 where the process has ended."""
        return self._status("VmRSS")

    @property
    def peak_resident_bytes(self) -> int:
        """The most since `forget_peak`; 0 where the process has ended."""
        return self._status("VmHWM")

    def forget_peak(self) -> None:
        """Let the kernel count the peak anew (proc(5): clear_refs)."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5", encoding="ascii")

    def _status(self, field: str) -> int:
        try:
            text = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        except (FileNotFoundError, ProcessLookupError):
            return 0
        kibibytes = [line.split()[1] for line in text.splitlines() if line.startswith(field)]
        return int(kibibytes[0]) * 1024 if kibibytes else 0

    @property
    def processor_s(self) -> float:
        """Processor time so far, of all threads."""
        times = self._seen.cpu_times()
        return float(times.user + times.system)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, unless the process has ended."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    async def stop(self) -> None:
        """End it, by force where it does not end by itself."""
        if not self.alive:
            return
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self.process.wait(), _STOP_S)
        except asyncio.TimeoutError:
            self.signal(signal.SIGKILL)
            await self.process.wait()


async def start(kind: Kind, name: str, settings: Mapping[str, Any], folder: Path) -> AgentProcess:
    """Start an agent on settings that are written beside its log; it may not serve yet."""
    path, log = folder / f"{name}.yaml", folder / f"{name}.log"
    path.write_text(yaml.safe_dump(dict(settings)), encoding="utf-8")
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", f"{kind}_agent.cli", "run", str(path),
            stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output,
        )  # fmt: skip
    return AgentProcess(process, log)


async def until_serving(agent: AgentProcess, channel: grpc.aio.Channel) -> None:
    """Wait until an agent says that it serves.

    Raises:
        RuntimeError: it ended, or did not serve within a minute; holds the end of its log.
    """
    stub = health_pb2_grpc.HealthStub(channel)
    deadline_s = time.monotonic() + _START_S
    while agent.alive and time.monotonic() < deadline_s:
        with contextlib.suppress(grpc.aio.AioRpcError):
            reply = await stub.Check(health_pb2.HealthCheckRequest(), timeout=2)
            if reply.status == health_pb2.HealthCheckResponse.SERVING:
                return
        await asyncio.sleep(0.05)
    raise RuntimeError(f"the agent did not come up:\n{agent.log[-2000:]}")


@contextlib.asynccontextmanager
async def unix_channel(path: Path) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to an agent's Unix socket."""
    # A failed attempt must not hold up the next one by gRPC's back-off of a second.
    options = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 100)]
    async with grpc.aio.insecure_channel(f"unix:{path}", options=options) as channel:
        yield channel
