"""HTTP clients without a key, without manners, and without an end."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import httpx

from benchmarks.agents import MEBIBYTE
from benchmarks.attacks.attack import Attack, Outcome, Site, each_of, together
from benchmarks.attacks.stages import API_KEY, board_with_http

_KEY = {"Authorization": f"Bearer {API_KEY}"}
_UNEXPLAINED = 500
_CHAT, _EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"


def _port(site: Site) -> int:
    return site.stage.ports["http"]


async def _ask(
    site: Site, path: str, *, refuse: bool = True, timeout_s: float = 20.0, **call: Any
) -> Outcome:
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{_port(site)}", timeout=timeout_s
    ) as client:
        try:
            reply = await client.request("POST" if len(call) > 1 else "GET", path, **call)
        except httpx.TimeoutException:
            return Outcome("no reply", f"no reply within {timeout_s:g} s")
        except httpx.TransportError as error:
            # A server may close the connection of whoever sends too much.
            return Outcome(f"closed: {type(error).__name__}")
    said = f"{reply.status_code}: {' '.join(reply.text.split())[:80]}"
    if reply.status_code >= _UNEXPLAINED and reply.status_code != httpx.codes.SERVICE_UNAVAILABLE:
        return Outcome(said, f"status {reply.status_code}")
    taken = refuse and reply.is_success
    return Outcome(said, "it was answered, and should have been refused" if taken else "")


async def _without_key(site: Site) -> Outcome:
    outcomes = []
    for path in ("/openapi.json", "/metrics", "/v1/models", "/docs"):
        outcome = await _ask(site, path)
        outcomes.append(Outcome(f"{path} {outcome.said[:3]}", outcome.wrong))
    return together(*outcomes)


async def _wrong_keys(site: Site) -> Outcome:
    keys = (
        "",
        "x",
        "a" * 60_000,
        "\N{LATIN SMALL LETTER E WITH ACUTE}",
        API_KEY[:-1],
        API_KEY + "x",
    )
    outcomes = []
    for key in keys:
        header = {"Authorization": b"Bearer " + key.encode()}
        outcomes.append(await _ask(site, "/v1/models", headers=header))
    return together(*outcomes)


async def _endless_body(size_mib: int, with_length: bool, with_key: bool, site: Site) -> Outcome:
    async def parts() -> AsyncIterator[bytes]:
        yield b'{"model": "'
        for _ in range(size_mib):
            yield b"x" * MEBIBYTE

    headers = dict(_KEY) if with_key else {}
    if with_length:
        headers["Content-Length"] = str(size_mib * MEBIBYTE + len('{"model": "'))
    return await _ask(site, _CHAT, content=parts(), headers=headers)


async def _slow_headers(site: Site) -> Outcome:
    """Two hundred connections that send a header's next letter each second."""
    connections = []
    closed = 0
    try:
        for _ in range(200):
            _, writer = opened = await asyncio.open_connection("127.0.0.1", _port(site))
            writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-Slow: ")
            connections.append(opened)
        for _ in range(25):
            await asyncio.sleep(1)
            for _, writer in connections:
                with contextlib.suppress(OSError):
                    writer.write(b"x")
            closed = sum(reader.at_eof() or writer.is_closing() for reader, writer in connections)
            if closed == len(connections):
                return Outcome("all were closed")
    finally:
        for _, writer in connections:
            writer.transport.abort()
    left = len(connections) - closed
    return Outcome(f"{left} stay", f"{left} connections may send headers for 25 s")


async def _slow_body(site: Site) -> Outcome:
    """A body of which a byte comes each second."""
    _, writer = opened = await asyncio.open_connection("127.0.0.1", _port(site))
    reader, _ = opened
    head = f"POST {_CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {API_KEY}\r\n"
    writer.write(f"{head}Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n".encode())
    try:
        for _ in range(35):
            await asyncio.sleep(1)
            with contextlib.suppress(OSError):
                writer.write(b" ")
            if reader.at_eof() or writer.is_closing():
                return Outcome("closed")
            with contextlib.suppress(asyncio.TimeoutError):
                reply = await asyncio.wait_for(reader.read(100), 0.01)
                return Outcome(reply.split(b"\r\n")[0].decode() or "closed")
    finally:
        writer.transport.abort()
    return Outcome("it stays", "a body may take 35 s and more")


async def _idle(site: Site) -> Outcome:
    """A thousand connections that say nothing."""
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(1_000):
            _, writer = await asyncio.open_connection("127.0.0.1", _port(site))
            stack.callback(writer.transport.abort)
        return await _ask(site, "/health", refuse=False)


def _chat(**fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "What is 12+25?"}]
    return {"model": "airloom-mathematics", "messages": messages, "max_tokens": 8, **fields}


_BODIES: dict[str, tuple[str, str, bytes]] = {
    "deep-json": ("100,000 nested lists", _CHAT, b"[" * 100_000),
    "deep-message": ("a message 5,000 lists deep", _CHAT,
                     json.dumps(_chat()).replace('"What', "[" * 5_000 + '"What').encode()),
    "messages": ("100,000 messages", _CHAT, json.dumps(
        _chat(messages=[{"role": "user", "content": "x"}] * 100_000)).encode()),
    "stops": ("100,000 stops", _CHAT, json.dumps(_chat(stop=[f"{i}" for i in range(100_000)])).encode()),
    "texts": ("100,000 texts to embed", _EMBEDDINGS, json.dumps(
        {"model": "airloom-mathematics", "input": ["x"] * 100_000}).encode()),
    "long-prompt": ("a prompt of 1,000,000 characters", _CHAT, json.dumps(
        _chat(messages=[{"role": "user", "content": "x" * 1_000_000}])).encode()),
    "huge-number": ("max_tokens of 10^4,000", _CHAT,
                    json.dumps(_chat()).replace(": 8", ": 1" + "0" * 4_000).encode()),
    "not-utf-8": ("bytes that are no text", _CHAT, b'{"model": "\xff\xfe"}'),
    "surrogates": ("half of a character", _CHAT, json.dumps(
        _chat(messages=[{"role": "user", "content": "What is \ud800?"}])).encode()),
}  # fmt: skip
_MAY_BE_ANSWERED = ("surrogates",)


async def _body(name: str, site: Site) -> Outcome:
    _, path, content = _BODIES[name]
    headers = {**_KEY, "Content-Type": "application/json"}
    refuse = name not in _MAY_BE_ANSWERED
    return await _ask(site, path, content=content, headers=headers, refuse=refuse)


_GROUPS = {
    "odd-json": ("deep-json", "deep-message", "huge-number", "not-utf-8", "surrogates"),
    "many-parts": ("messages", "stops", "texts"),
    "long-prompt": ("long-prompt",),
}

ATTACKS = (
    Attack("http/without-key", "/openapi.json, /metrics, … without a key", board_with_http,
           _without_key),
    Attack("http/wrong-keys", "keys of all kinds, 60,000 characters long", board_with_http,
           _wrong_keys),
    Attack("http/500-MiB", "a body of 500 MiB without a key", board_with_http,
           partial(_endless_body, 500, True, False), repeated=False),
    Attack("http/500-MiB-in-chunks", "the same, in chunks without a length", board_with_http,
           partial(_endless_body, 500, False, False), repeated=False),
    Attack("http/500-MiB-with-key", "the same, with a key", board_with_http,
           partial(_endless_body, 500, False, True), repeated=False),
    Attack("http/slow-headers", "200 connections, a letter of a header each second",
           board_with_http, _slow_headers, repeated=False, limit_s=60),
    Attack("http/slow-body", "a byte of a body each second", board_with_http, _slow_body,
           repeated=False, limit_s=60),
    Attack("http/idle", "1,000 connections that say nothing", board_with_http, _idle,
           repeated=False),
    *(
        Attack(f"http/{group}", ", ".join(_BODIES[name][0] for name in names), board_with_http,
               each_of({name: partial(_body, name) for name in names}), pause_s=1.0)
        for group, names in _GROUPS.items()
    ),
)  # fmt: skip
