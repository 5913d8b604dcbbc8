"""Servers that do not keep to OpenAI's API: each failure is an error that says what was read."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from test_cloud_engines import asking, telling

from airloom.errors import AirloomError, UnreachableError
from cloud_agent.config import ServerSettings
from cloud_agent.engines.openai_server import OpenAIServer
from cloud_agent.engines.pool import ServerPool

TOKEN = {"token": "4", "logprob": -0.1, "bytes": None, "top_logprobs": []}


def chunk(**choice: Any) -> dict[str, Any]:
    whole = {"index": 0, "delta": {"content": "4"}, "finish_reason": None, **choice}
    return {
        "id": "1",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": "m",
        "choices": [whole],
    }


@contextlib.asynccontextmanager
async def server_saying(body: bytes, kind: str = "text/event-stream") -> AsyncIterator[str]:
    """A server that answers everything with these bytes."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + body)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        server.close()


def events(*data: Any) -> bytes:
    return b"".join(b"data: %s\n\n" % json.dumps(one).encode() for one in data)


def remote(url: str) -> OpenAIServer:
    return OpenAIServer(ServerSettings(url=url, model="m"))


@pytest.mark.parametrize(
    "body",
    [
        b"data: {not json\n\n",
        b"data: [1, 2]\n\n",
        events({"choices": [{"index": 0}]}),
        events(chunk(delta={"content": 4})),
        events(chunk(logprobs={"content": [{"token": "4", "logprob": "high"}]})),
        events(chunk(logprobs={"content": "text"})),
    ],
    ids=["no JSON", "a list", "no delta", "a number", "words for a number", "text for a list"],
)
async def test_what_is_no_completion_is_told_as_such(body: bytes) -> None:
    async with server_saying(body) as url:
        server = remote(url)
        with pytest.raises(AirloomError) as caught:
            await asyncio.wait_for(server.chat(asking()), 30)
        assert isinstance(caught.value, UnreachableError)
        assert url in str(caught.value)
        await server.close()


async def test_absent_alternatives_leave_the_tokens_own_probability() -> None:
    bare = {key: value for key, value in TOKEN.items() if key != "top_logprobs"}
    body = events(
        chunk(logprobs={"content": [bare]}),
        chunk(logprobs={"content": [{**TOKEN, "top_logprobs": None}]}),
        chunk(delta={}, finish_reason="stop"),
    )
    async with server_saying(body) as url:
        server = remote(url)
        texts: list[str] = []
        answer = await server.chat(asking(), telling(texts))
        assert answer.text == "".join(texts) == "44"
        assert answer.confidence is not None
        await server.close()


async def test_a_connection_that_breaks_in_an_answer_is_an_error() -> None:
    head = b"data: " + json.dumps(chunk()).encode()
    async with server_saying(
        b"ffff\r\n" + head, "text/event-stream\r\nTransfer-Encoding: chunked"
    ) as url:
        server = remote(url)
        with pytest.raises(UnreachableError):
            await asyncio.wait_for(server.chat(asking()), 30)
        await server.close()


@pytest.mark.parametrize("body", [b"{not json", b'{"data": [{"no": "id"}]}', b"[]", b"null"])
async def test_a_check_that_cannot_be_read_makes_the_server_unhealthy(body: bytes) -> None:
    async with server_saying(body, "application/json") as url:
        server = remote(url)
        with pytest.raises(UnreachableError):
            await server.check(10)
        pool = ServerPool([server], check_interval_s=0.01)
        watching = asyncio.ensure_future(pool.watch())
        while pool.health[url]:
            await asyncio.sleep(0.005)
        assert not watching.done()
        watching.cancel()
        await server.close()


async def test_what_the_reader_raises_is_the_readers() -> None:
    async def read(text: str) -> None:
        raise ValueError(f"the reader's own: {text}")

    async with server_saying(events(chunk())) as url:
        server = remote(url)
        with pytest.raises(ValueError, match="the reader's own: 4"):
            await server.chat(asking(), read)
        await server.close()
