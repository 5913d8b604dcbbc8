"""Device and cloud agents as processes, over loopback."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import grpc
import pytest
import zmq
import zmq.asyncio
import zmq.auth
from agents import MODELS, PATIENCE_S, Agents, device_here, free_port, healthy
from gates import Gate
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from airloom.identity import Role
from benchmarks.qwen_shape import QwenShape, write_random
from protos.airloom.v1 import (
    fleet_pb2,
    fleet_pb2_grpc,
    inference_pb2,
    inference_pb2_grpc,
    task_pb2,
    telemetry_pb2,
)
from testbed.certificates import issue, make_authority, make_curve_keys

PLAINTEXT = {"plaintext": True}
TRUSTED = {**PLAINTEXT, "trust_names": True}


def question(text: str = "What is 12+25?", **budget: Any) -> task_pb2.Task:
    return task_pb2.Task(
        task_id="t1",
        parts=[task_pb2.Part(text=task_pb2.TextPart(text=text))],
        budget=task_pb2.Budget(**budget),
    )


def cloud_settings(folder: Path, port: int, security: dict[str, Any]) -> dict[str, Any]:
    return {
        "listen": f"127.0.0.1:{port}",
        "local_socket": f"{folder}/cloud.sock",
        "security": security,
        "model": {"path": str(MODELS["cloud"]), "threads": 1},
        "heartbeat_interval_s": 0.3,
    }


def device_settings(
    folder: Path, port: int | None, security: dict[str, Any], threshold: float = 1.0
) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "device_id": "board",
        "listen": f"unix:{folder}/board.sock",
        "listen_security": PLAINTEXT,
        "model": {"path": str(MODELS["mathematics"]), "threads": 1},
        "routing": {"threshold": threshold},
    }
    if port is not None:
        settings["cloud"] = {
            "address": f"127.0.0.1:{port}",
            "security": security,
            "backoff_initial_s": 0.05,
            "backoff_max_s": 0.3,
        }
    return settings


async def infer(
    folder: Path, task: task_pb2.Task, agent: str = "board", device_id: str = ""
) -> task_pb2.TaskResult:
    async with grpc.aio.insecure_channel(f"unix:{folder}/{agent}.sock") as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        request = inference_pb2.InferRequest(task=task, device_id=device_id)
        return (await stub.Infer(request, timeout=PATIENCE_S)).result


async def devices(folder: Path) -> list[str]:
    async with grpc.aio.insecure_channel(f"unix:{folder}/cloud.sock") as channel:
        stub = fleet_pb2_grpc.FleetServiceStub(channel)
        reply = await stub.ListDevices(fleet_pb2.ListDevicesRequest(), timeout=PATIENCE_S)
        return [device.device_id for device in reply.devices]


async def until_registered(folder: Path, expected: list[str]) -> None:
    async def poll() -> None:
        while await devices(folder) != expected:
            await asyncio.sleep(0.02)

    await asyncio.wait_for(poll(), PATIENCE_S)


async def start_both(
    agents: Agents, security: dict[str, Any], device_security: dict[str, Any]
) -> tuple[Any, Any, int]:
    port = free_port()
    folder = agents.folder
    cloud = await agents.start("cloud", "cloud", cloud_settings(folder, port, security))
    board = await agents.start("device", "board", device_settings(folder, port, device_security))
    await healthy(f"unix:{folder}/cloud.sock")
    await healthy(f"unix:{folder}/board.sock")
    return cloud, board, port


async def test_an_unsure_device_asks_the_cloud_and_says_so(agents: Agents) -> None:
    await start_both(agents, TRUSTED, PLAINTEXT)
    await until_registered(agents.folder, ["board"])
    result = await infer(agents.folder, question())
    assert result.answer.provenance.place == task_pb2.PLACE_CLOUD
    assert result.answer.provenance.model_name == "airloom-cloud"
    assert len(result.answer.provenance.model_sha256) == 64
    assert result.answer.set_aside.peer == "board"
    timing = result.timing
    assert timing.uplink_bytes > 20
    assert timing.downlink_bytes > 100
    assert timing.one_way_estimated
    parts = (
        timing.queue_ms,
        timing.uplink_ms,
        timing.prefill_ms,
        timing.decode_ms,
        timing.downlink_ms,
    )
    assert all(part >= 0 for part in parts)
    assert sum(parts) <= timing.total_ms + 0.5


async def test_data_that_must_stay_on_the_device_stays(agents: Agents) -> None:
    await start_both(agents, TRUSTED, PLAINTEXT)
    await until_registered(agents.folder, ["board"])
    task = question(residency=task_pb2.RESIDENCY_DEVICE_ONLY)
    result = await infer(agents.folder, task)
    assert result.answer.provenance.place == task_pb2.PLACE_DEVICE


async def test_the_cloud_hands_work_to_a_device(agents: Agents) -> None:
    await start_both(agents, TRUSTED, PLAINTEXT)
    await until_registered(agents.folder, ["board"])
    result = await infer(agents.folder, question(), "cloud", device_id="board")
    assert result.answer.provenance.agent_id == "board"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await infer(agents.folder, question(), "cloud", device_id="nobody")
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    assert "connected now: board" in (caught.value.details() or "")


async def test_a_device_survives_the_loss_of_the_cloud_and_finds_it_again(agents: Agents) -> None:
    cloud, _, port = await start_both(agents, TRUSTED, PLAINTEXT)
    folder = agents.folder
    await until_registered(folder, ["board"])
    await cloud.stop(signal.SIGKILL)
    result = await infer(folder, question(deadline_ms=3000))
    assert result.answer.provenance.place == task_pb2.PLACE_DEVICE
    assert "cloud" in result.answer.fallback_reason
    await agents.start("cloud", "cloud", cloud_settings(folder, port, TRUSTED))
    await healthy(f"unix:{folder}/cloud.sock")
    await until_registered(folder, ["board"])
    result = await infer(folder, question())
    assert result.answer.provenance.place == task_pb2.PLACE_CLOUD


async def test_a_lost_device_is_forgotten(agents: Agents) -> None:
    _, board, _ = await start_both(agents, TRUSTED, PLAINTEXT)
    await until_registered(agents.folder, ["board"])
    await board.stop(signal.SIGKILL)
    await until_registered(agents.folder, [])


async def test_mutual_tls_lets_in_whom_the_authority_knows_and_nobody_else(agents: Agents) -> None:
    folder = agents.folder
    make_authority(folder)
    issue(folder, "cloud", roles=[Role.CLOUD])
    issue(folder, "board")

    def security(name: str, place: Path = folder) -> dict[str, str]:
        return {
            "ca": str(folder / "ca.crt"),
            "certificate": str(place / f"{name}.crt"),
            "key": str(place / f"{name}.key"),
        }

    _, _, port = await start_both(agents, security("cloud"), security("board"))
    await until_registered(folder, ["board"])
    stranger = folder / "stranger"
    make_authority(stranger)
    issue(stranger, "board2")
    settings = device_settings(folder, port, security("board2", stranger))
    settings |= {"device_id": "board2", "listen": f"unix:{folder}/board2.sock"}
    await agents.start("device", "board2", settings)
    await healthy(f"unix:{folder}/board2.sock")
    result = await infer(folder, question(deadline_ms=3000), "board2")
    assert result.answer.fallback_reason
    assert await devices(folder) == ["board"]


async def test_deadlines_and_cancellation_come_back_as_statuses(agents: Agents) -> None:
    await agents.start("device", "board", device_settings(agents.folder, None, PLAINTEXT))
    await healthy(f"unix:{agents.folder}/board.sock")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await infer(agents.folder, question(deadline_ms=0.001))
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await infer(agents.folder, task_pb2.Task(task_id="empty"))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "no text part" in (caught.value.details() or "")
    assert (await infer(agents.folder, question())).answer.text


async def test_text_is_streamed_as_it_is_decoded(agents: Agents, gate: Gate) -> None:
    settings = device_settings(agents.folder, None, PLAINTEXT)
    settings["model"]["stream_interval_ms"] = 0
    gate.shut(after=1)
    events = []
    async with (
        device_here(settings),
        grpc.aio.insecure_channel(settings["listen"]) as channel,
    ):
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        request = inference_pb2.InferStreamRequest(task=question())
        async for event in stub.InferStream(request, timeout=PATIENCE_S):
            events.append(event)
            # The next token is not made before this one was told.
            gate.let(1)
        gate.open()
    *texts, last = events
    assert len(texts) > 3
    assert "".join(event.text for event in texts) == last.result.answer.text


async def test_reflection_lists_the_services(agents: Agents) -> None:
    await agents.start("device", "board", device_settings(agents.folder, None, PLAINTEXT))
    await healthy(f"unix:{agents.folder}/board.sock")
    async with grpc.aio.insecure_channel(f"unix:{agents.folder}/board.sock") as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        (reply,) = [r async for r in stub.ServerReflectionInfo(iter([request]), timeout=PATIENCE_S)]
    names = {service.name for service in reply.list_services_response.service}
    assert {"airloom.v1.InferenceService", "grpc.health.v1.Health"} <= names


async def test_telemetry_arrives_on_its_own_socket(agents: Agents) -> None:
    context = zmq.asyncio.Context()
    socket = context.socket(zmq.SUB)
    socket.setsockopt(zmq.SUBSCRIBE, b"")
    socket.bind(f"ipc://{agents.folder}/telemetry.sock")
    settings = device_settings(agents.folder, None, PLAINTEXT)
    settings["telemetry"] = {
        "endpoint": f"ipc://{agents.folder}/telemetry.sock",
        "interval_s": 0.05,
    }
    await agents.start("device", "board", settings)
    topic, payload = await asyncio.wait_for(socket.recv_multipart(), PATIENCE_S)
    sample = telemetry_pb2.TelemetrySample.FromString(payload)
    assert topic == b"board" == sample.device_id.encode()
    assert sample.memory_total_bytes > sample.agent_memory_bytes > 1_000_000
    socket.close(0)
    context.term()


async def test_telemetry_over_tcp_is_encrypted_unless_plaintext_is_asked_for(
    agents: Agents,
) -> None:
    keys = agents.folder / "telemetry"
    reader_keys, board_keys = (make_curve_keys(keys, name) for name in ("reader", "board"))
    context = zmq.asyncio.Context()
    socket = context.socket(zmq.SUB)
    socket.setsockopt(zmq.SUBSCRIBE, b"")
    socket.curve_publickey, socket.curve_secretkey = zmq.auth.load_certificate(reader_keys)  # type: ignore[assignment]
    socket.curve_server = True
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    settings = device_settings(agents.folder, None, PLAINTEXT)
    settings["telemetry"] = {"endpoint": f"tcp://127.0.0.1:{port}", "interval_s": 0.05}
    refused = await agents.start("device", "refused", settings)
    assert await asyncio.wait_for(refused.process.wait(), PATIENCE_S) == 1
    assert "telemetry: " in refused.log
    assert "needs either curve or plaintext: true" in refused.log
    # Relative paths start at the settings file's folder.
    curve = {"server_key": "telemetry/reader.key", "certificate": f"telemetry/{board_keys.name}"}
    settings["telemetry"]["curve"] = curve
    await agents.start("device", "board", settings)
    topic, _ = await asyncio.wait_for(socket.recv_multipart(), PATIENCE_S)
    assert topic == b"board"
    socket.close(0)
    context.term()


async def test_sigterm_ends_an_agent_in_good_order(agents: Agents) -> None:
    cloud, board, _ = await start_both(agents, TRUSTED, PLAINTEXT)
    assert await board.stop() == 0
    assert await cloud.stop() == 0
    assert "Traceback" not in board.log + cloud.log


async def test_a_busy_port_a_missing_and_a_broken_setting_are_one_clear_line(
    agents: Agents,
) -> None:
    port = free_port()
    folder = agents.folder
    await agents.start("cloud", "cloud", cloud_settings(folder, port, TRUSTED))
    await healthy(f"unix:{folder}/cloud.sock")
    second = cloud_settings(folder, port, TRUSTED) | {"local_socket": None}
    missing = device_settings(folder, None, PLAINTEXT)
    missing["model"] = {"path": "nowhere.gguf"}
    broken = device_settings(folder, None, PLAINTEXT) | {"listen_security": {}}
    for kind, name, settings, says in (
        ("cloud", "second", second, f"127.0.0.1:{port}"),
        ("device", "missing", missing, "nowhere.gguf: no such model file"),
        ("device", "broken", broken, "broken.yaml:3: listen_security: give ca"),
    ):
        agent = await agents.start(kind, name, settings)
        assert await asyncio.wait_for(agent.process.wait(), PATIENCE_S) == 1
        (line,) = [line for line in agent.log.splitlines() if line.startswith(f"{kind}-agent: ")]
        assert says in line
        assert "Traceback" not in agent.log


async def test_any_gguf_runs_in_place_of_the_shipped_models(agents: Agents) -> None:
    """Another architecture, another tokenizer, another chat template: a path is all it takes."""
    shape = QwenShape(
        layers=2, width=64, heads=2, key_value_heads=1, feed_forward=96, vocabulary=1200
    )
    write_random(shape, "Q4_0", agents.folder / "qwen.gguf")
    settings = device_settings(agents.folder, None, PLAINTEXT, threshold=0.0)
    settings["model"] = {
        "path": "qwen.gguf",
        "threads": 1,
        "context_tokens": 512,
        "instruction": "End with #### and the answer.",
    }
    await agents.start("device", "board", settings)
    await healthy(f"unix:{agents.folder}/board.sock")
    task = question("Héllo, 世界?")
    task.sampling.max_tokens = 12
    result = await infer(agents.folder, task)
    assert result.answer.provenance.model_name == "random-qwen2"
    assert result.answer.provenance.quantisation == "Q4_0"
    # The question, the instruction and the template's marks; nearly a token a letter here.
    assert 40 < result.answer.usage.prompt_tokens < 90
    assert 1 <= result.answer.usage.completion_tokens <= 12
