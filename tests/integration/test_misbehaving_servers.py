"""Servers of OpenAI's API that break off, or say a line that does not end."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from agents import free_port

from airloom.errors import UnreachableError
from cloud_agent.config import ServerSettings
from cloud_agent.engines.bounded_lines import MAX_LINE_BYTES
from cloud_agent.engines.openai_server import OpenAIServer
from device_agent.chat import ChatRequest, Message

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
ASKED = ChatRequest((Message("user", "What is 12+25?"),), max_tokens=10)


async def answered(*parts: bytes, hold: bool) -> None:
    """Ask a server that sends these parts, and then breaks off or says no more."""
    port, left = free_port(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await reader.readuntil(b"\r\n\r\n")
            for part in parts:
                writer.write(part)
                await writer.drain()
            if hold:
                await left.wait()
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    remote = OpenAIServer(ServerSettings(url=f"http://127.0.0.1:{port}/v1", model="odd"))
    try:
        await asyncio.wait_for(remote.chat(ASKED), 30)
    finally:
        left.set()
        await remote.close()
        server.close()


async def test_a_line_that_does_not_end_is_not_kept() -> None:
    part = b"data: " + b"x" * MAX_LINE_BYTES
    with pytest.raises(UnreachableError, match="a line of over 1,048,576 bytes"):
        await answered(HEAD + b"\r\n", part, part, hold=True)


async def test_a_compressed_response_is_not_unfolded() -> None:
    with pytest.raises(UnreachableError, match="does not answer"):
        await answered(HEAD + b"Content-Encoding: gzip\r\n\r\n", hold=True)


async def test_a_stream_that_breaks_off_is_told() -> None:
    head = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    with pytest.raises(UnreachableError, match="does not answer"):
        await answered(head, b"5\r\ndata:\r\n", hold=False)
