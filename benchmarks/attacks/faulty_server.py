"""A server of OpenAI's API that answers sums, and misbehaves where a question says how."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from types import TracebackType
from typing import Any

MODEL = "faulty"
FAULTS = (
    "bad-json", "no-top_logprobs", "text-as-logprob", "content-is-a-number", "choices-is-null",
    "html", "empty-body", "closes-midway", "silent", "line-without-end", "status-500",
    "redirect-to-itself",
)  # fmt: skip
_SUM = re.compile(r"\d+\+\d+")


def _event(content: Any, logprobs: Any = None) -> bytes:
    choice = {
        "index": 0,
        "delta": {"role": "assistant", "content": content},
        "logprobs": logprobs,
        "finish_reason": None,
    }
    return _data({"choices": [choice]})


def _data(fields: dict[str, Any]) -> bytes:
    whole = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": MODEL, **fields}
    return f"data: {json.dumps(whole)}\n\n".encode()


def _scores(token: str, **changes: Any) -> dict[str, Any]:
    alternatives = [{"token": token, "logprob": -0.01, "bytes": None}]
    one = {"token": token, "logprob": -0.01, "bytes": None, "top_logprobs": alternatives}
    return {"content": [{name: value for name, value in {**one, **changes}.items() if value != ""}]}


class FaultyServer:
    """Listens on a port of the loopback until the block ends."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> FaultyServer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
            body = await reader.readexactly(int(length[1])) if length else b""
            await self._reply(head, body.decode(), writer)
        writer.transport.abort() if writer.is_closing() else writer.close()

    async def _reply(self, head: bytes, body: str, writer: asyncio.StreamWriter) -> None:
        if b"/models" in head.split(b"\r\n")[0]:
            models = {"object": "list", "data": [{"id": MODEL, "object": "model", "created": 1,
                                                  "owned_by": "nobody"}]}  # fmt: skip
            self._head(writer, "200 OK", "application/json")
            writer.write(json.dumps(models).encode())
        elif fault := next((fault for fault in FAULTS if fault in body), ""):
            await self._misbehave(fault, writer)
        else:
            self._head(writer, "200 OK", "text/event-stream")
            asked = _SUM.search(body)
            answer = asked[0] if asked else "nothing"
            writer.write(_event(answer, _scores(answer)) + _data({"choices": [
                {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}
            ]}) + b"data: [DONE]\n\n")  # fmt: skip
        await writer.drain()

    @staticmethod
    def _head(writer: asyncio.StreamWriter, status: str, media_type: str) -> None:
        text = f"HTTP/1.1 {status}\r\nContent-Type: {media_type}\r\nConnection: close\r\n\r\n"
        writer.write(text.encode())

    async def _misbehave(self, fault: str, writer: asyncio.StreamWriter) -> None:
        if fault == "status-500":
            self._head(writer, "500 Oh no", "text/plain")
            return
        if fault == "redirect-to-itself":
            writer.write(b"HTTP/1.1 307 Go on\r\nLocation: /v1/chat/completions\r\n"
                         b"Content-Length: 0\r\nConnection: close\r\n\r\n")  # fmt: skip
            return
        self._head(writer, "200 OK", "text/html" if fault == "html" else "text/event-stream")
        if fault == "silent":
            await writer.drain()
            await asyncio.sleep(60)
        elif fault == "line-without-end":
            for _ in range(256):
                writer.write(b"data: " + b"x" * (1 << 20))
                await writer.drain()
        else:
            writer.write(_WRITTEN[fault])


_WRITTEN = {
    "bad-json": b"data: {not json}\n\n",
    "no-top_logprobs": _event("1", _scores("1", top_logprobs="")) + b"data: [DONE]\n\n",
    "text-as-logprob": _event("1", _scores("1", logprob="high")) + b"data: [DONE]\n\n",
    "content-is-a-number": _event(7) + b"data: [DONE]\n\n",
    "choices-is-null": _data({"choices": None}) + b"data: [DONE]\n\n",
    "html": b"<html><body>Log in first</body></html>",
    "empty-body": b"",
    "closes-midway": _event("1")[:40],
}
