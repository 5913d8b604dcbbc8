"""A cloud agent whose answers come from llama.cpp's own servers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agents import MODELS, Agents, free_port, healthy
from gates import Clock
from test_agents import PLAINTEXT, TRUSTED, device_settings, infer, question, until_registered

from airloom.errors import (
    ConfigurationError,
    DeadlineExceededError,
    InvalidTaskError,
    UnreachableError,
)
from benchmarks.runtime.llama_cpp_programs import llama_server
from cloud_agent.config import ServerSettings
from cloud_agent.engines.openai_server import OpenAIServer
from device_agent.chat import ChatRequest, Message, OutputForm
from device_agent.engine import Engine, EngineSettings, GenerateRequest, Model, OnText, Sampling
from protos.airloom.v1 import task_pb2

MODEL = MODELS["mathematics"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("llama-server") / "log"
    with llama_server(MODEL, parallel=2, context_tokens=384, threads=1, log=log) as url:
        yield url


def settings_of(url: str, **changes: Any) -> ServerSettings:
    return ServerSettings(**{"url": f"{url}/v1", "model": MODEL.stem, **changes})


def asking(text: str = "What is 12+25?", **changes: Any) -> ChatRequest:
    return ChatRequest((Message("user", text),), **{"max_tokens": 100, **changes})


def telling(texts: list[str]) -> OnText:
    async def tell(text: str) -> None:
        texts.append(text)

    return tell


async def test_llama_server_says_what_the_engine_says(server: str) -> None:
    remote = OpenAIServer(settings_of(server))
    await remote.check(5)
    texts: list[str] = []
    answer = await remote.chat(asking(), telling(texts))
    engine = Engine(Model(MODEL), EngineSettings(threads=1))
    own = await engine.generate(GenerateRequest(engine.model.user_prompt("What is 12+25?")))
    await asyncio.to_thread(engine.close)
    assert answer.text == "".join(texts) == own.text
    assert len(texts) > 5
    assert answer.finish_reason == "end"
    assert answer.prompt_tokens == own.prompt_tokens
    # The confidence is computed from what the server tells of its tokens.
    assert answer.confidence is not None
    assert own.confidence is not None
    assert answer.confidence.sequence_probability == pytest.approx(
        own.confidence.sequence_probability, abs=0.02
    )
    assert answer.confidence.min_margin == pytest.approx(own.confidence.min_margin, abs=0.02)
    await remote.close()


async def test_sampling_stop_and_schemas_are_passed_on(server: str) -> None:
    remote = OpenAIServer(settings_of(server))
    stopped = await remote.chat(asking(stop=("=",)))
    assert "=" not in stopped.text
    cut = await remote.chat(asking(max_tokens=3))
    assert cut.finish_reason == "length"
    hot = asking(sampling=Sampling(temperature=2.0, top_k=50, min_p=0.01, seed=1))
    assert (await remote.chat(hot)).text
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    formed = await remote.chat(asking(form=OutputForm(json_schema=schema), max_tokens=200))
    assert isinstance(json.loads(formed.text)["n"], int)
    with pytest.raises(InvalidTaskError, match="takes JSON schemas, not grammars"):
        await remote.chat(asking(form=OutputForm(grammar='root ::= "a"')))
    await remote.close()


async def test_a_servers_failures_are_told_apart(server: str, tmp_path: Path) -> None:
    remote = OpenAIServer(settings_of(server))
    with pytest.raises(DeadlineExceededError):
        await remote.chat(asking(deadline_s=time.monotonic()))
    with pytest.raises(InvalidTaskError, match="refuses the request"):
        await remote.chat(asking("7" * 2000))
    with pytest.raises(UnreachableError, match="not 'another'"):
        await OpenAIServer(settings_of(server, model="another")).check(5)
    nobody = OpenAIServer(settings_of(f"http://127.0.0.1:{free_port()}"))
    with pytest.raises(UnreachableError, match="does not answer"):
        await nobody.chat(asking())
    missing = settings_of(server, api_key_file=tmp_path / "key")
    with pytest.raises(ConfigurationError, match="key: cannot be read"):
        OpenAIServer(missing)
    await remote.close()


async def talk_for_ever(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
    chunk = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "endless"}
    choice = {"index": 0, "delta": {"content": "on and "}, "finish_reason": None}
    event = b"data: %s\n\n" % json.dumps({**chunk, "choices": [choice]}).encode()
    with contextlib.suppress(ConnectionError):
        while True:
            writer.write(event)
            await writer.drain()
            await asyncio.sleep(0.01)


async def test_a_deadline_ends_an_answer_that_keeps_coming(clock: Clock) -> None:
    port = free_port()
    server = await asyncio.start_server(talk_for_ever, "127.0.0.1", port)
    remote = OpenAIServer(settings_of(f"http://127.0.0.1:{port}", model="endless"))
    texts: list[str] = []

    async def tell(text: str) -> None:
        texts.append(text)
        if len(texts) == 2:
            clock.advance(1e6)

    with pytest.raises(DeadlineExceededError, match="the deadline passed"):
        await remote.chat(asking(deadline_s=clock.now_s() + 1e6), tell)
    assert len(texts) > 1
    await remote.close()
    server.close()


async def test_a_device_is_answered_while_a_server_lives(agents: Agents, tmp_path: Path) -> None:
    folder, port = agents.folder, free_port()
    with (
        llama_server(MODEL, parallel=2, context_tokens=384, threads=1, log=tmp_path / "1") as one,
        llama_server(MODEL, parallel=2, context_tokens=384, threads=1, log=tmp_path / "2") as two,
    ):
        servers = [
            {"url": f"{one}/v1", "model": MODEL.stem, "weight": 9.0},
            {"url": f"{two}/v1", "model": MODEL.stem},
            {"url": f"http://127.0.0.1:{free_port()}/v1", "model": MODEL.stem},
        ]
        await agents.start(
            "cloud",
            "cloud",
            {
                "listen": f"127.0.0.1:{port}",
                "local_socket": f"{folder}/cloud.sock",
                "security": TRUSTED,
                "heartbeat_interval_s": 0.3,
                "engines": {"servers": servers, "check_interval_s": 0.2},
            },
        )
        await healthy(f"unix:{folder}/cloud.sock")
        # The device must be sure to ask: it keeps nothing to itself.
        await agents.start("device", "board", device_settings(folder, port, PLAINTEXT))
        await healthy(f"unix:{folder}/board.sock")
        await until_registered(folder, ["board"])
        result = await infer(folder, question())
        assert result.answer.provenance.place == task_pb2.PLACE_CLOUD
        assert result.answer.provenance.model_name == MODEL.stem
        assert result.answer.final_answer == "37"
        assert result.answer.confidence.sequence_probability > 0
    # Both are gone now: the device falls back on its own answer.
    result = await infer(folder, question())
    assert result.answer.provenance.place == task_pb2.PLACE_DEVICE
    assert "does not answer" in result.answer.fallback_reason
