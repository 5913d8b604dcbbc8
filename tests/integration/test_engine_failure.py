"""An engine that has failed: everybody is told, health says so, and the agent ends with an error."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from agents import MODELS, free_port
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos.airloom.v1 import inference_pb2, inference_pb2_grpc, task_pb2

PATIENCE_S = 120.0

DEFECT = """
import sys
from device_agent.engine.scheduler import Scheduler
from {kind}_agent import cli

def next_group(self):
    raise RuntimeError("a defect in the loop")

Scheduler.next_group = next_group
cli.main()
"""
"""An agent whose decode loop breaks when it first has something to decode."""


def settings(kind: str, port: int) -> dict[str, Any]:
    named = {"device_id": "board-a"} if kind == "device" else {"cloud_id": "cloud"}
    security = {"plaintext": True}
    return {
        **named,
        "listen": f"127.0.0.1:{port}",
        ("listen_security" if kind == "device" else "security"): security,
        "model": {"path": str(MODELS["mathematics"]), "threads": 1, "context_tokens": 384},
    }


@pytest.mark.parametrize("kind", ["device", "cloud"])
async def test_the_agent_says_so_and_ends_with_an_error(kind: str, tmp_path: Path) -> None:
    port = free_port()
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump(settings(kind, port)), encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", DEFECT.format(kind=kind), "run", str(file),
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    log = asyncio.ensure_future(process.stderr.read())
    try:
        async with asyncio.timeout(PATIENCE_S):
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                await _ask_and_watch(channel)
            assert await process.wait() == 1
    finally:
        if process.returncode is None:
            process.kill()
    said = (await log).decode()
    assert f"{kind}-agent: the engine failed: RuntimeError: a defect in the loop" in said
    # The log holds where.
    assert "Traceback" in said


async def _ask_and_watch(channel: grpc.aio.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    names = ("", "airloom.v1.InferenceService")
    watches = [
        aiter(health.Watch(health_pb2.HealthCheckRequest(service=name), wait_for_ready=True))
        for name in names
    ]
    for watch in watches:
        assert (await anext(watch)).status == health_pb2.HealthCheckResponse.SERVING
    stub = inference_pb2_grpc.InferenceServiceStub(channel)
    tasks = [
        task_pb2.Task(task_id=name, parts=[task_pb2.Part(text=task_pb2.TextPart(text="1+1"))])
        for name in ("first", "second", "third")
    ]
    answers = await asyncio.gather(
        *(stub.Infer(inference_pb2.InferRequest(task=task)) for task in tasks),
        return_exceptions=True,
    )
    assert [type(answer) for answer in answers] == [grpc.aio.AioRpcError] * 3
    assert any("the engine failed: RuntimeError" in str(answer) for answer in answers)
    for watch in watches:
        assert (await anext(watch)).status == health_pb2.HealthCheckResponse.NOT_SERVING
