"""Tokens per second of many streams at once, through HTTP, against llama.cpp's servers."""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import sys
import time
from collections.abc import Sequence

import httpx

from benchmarks.result import Result
from benchmarks.runtime.llama_cpp_programs import free_port, llama_server, running
from benchmarks.runtime.subjects import BUILD, Subject, device_agent, qwen, shipped

STREAMS = (1, 4, 8, 16)
_ROUNDS, _LEAST_S = 8, 15.0
"""At least so many rounds, and so long: where one takes a tenth of a second, chance rules it."""
_PROMPT_LETTERS = 48


def _prompt(rng: random.Random) -> str:
    """Letters that no request before has sent: nobody can answer from a cache."""
    return " ".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=_PROMPT_LETTERS // 2))


async def _stream(client: httpx.AsyncClient, model: str, prompt: str, tokens: int) -> int:
    """One streamed completion; returns its number of tokens."""
    body = {
        "model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0.0,
        "ignore_eos": True, "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    last = b""
    async with client.stream("POST", "/v1/completions", json=body) as response:
        response.raise_for_status()
        async for part in response.aiter_raw():
            last = (last + part)[-4096:]
    # The last event but [DONE] tells how many there were.
    lines = [line for line in last.split(b"\n") if line.startswith(b"data: {")]
    return int(json.loads(lines[-1][6:])["usage"]["completion_tokens"])


async def _rate(url: str, model: str, prompts: Sequence[str], tokens: int) -> float:
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=httpx.Limits()) as client:
        started_s = time.perf_counter()
        counts = await asyncio.gather(*(_stream(client, model, p, tokens) for p in prompts))
        return sum(counts) / (time.perf_counter() - started_s)


def median_rates(subject: Subject, streams: int, servers: Sequence[tuple[str, str]]) -> list[float]:
    """The median rate of each server, asked in turns; of each its URL and its model's name."""
    rng = random.Random(streams)
    rates: list[list[float]] = [[] for _ in servers]
    order = list(zip(servers, rates, strict=True))
    begin_s = time.monotonic()
    while len(rates[0]) <= _ROUNDS or time.monotonic() < begin_s + _LEAST_S:
        for (url, model), kept in order:
            prompts = [_prompt(rng) for _ in range(streams)]
            kept.append(asyncio.run(_rate(url, model, prompts, subject.tokens)))
        # Whoever comes second meets what the first has left: a warm machine, or one taken away.
        order.reverse()
    # The first round warms them up.
    return [statistics.median(kept[1:]) for kept in rates]


def _against_llama_server(subject: Subject, streams: int, *, places: int = 0) -> Result:
    """Both may serve `places` streams, where that is more than there are."""
    places = max(places, streams)
    log = BUILD / "llama-server.log"
    with (
        llama_server(
            subject.path,
            parallel=places,
            context_tokens=subject.context_tokens,
            threads=subject.threads,
            log=log,
        ) as url,
        device_agent(subject, parallel=places) as agent,
    ):
        servers = (agent.url, agent.model), (url, subject.path.stem)
        value, peer_value = median_rates(subject, streams, servers)
    name = f"runtime/{subject.name}/streams-{streams}"
    if places > streams:
        name += f"-of-{places}"
    return Result(name, value, "tokens/s", "llama-server", peer_value, 1.0)


def _against_llama_cpp_python(subject: Subject) -> Result:
    """Its own server takes one request at a time."""
    streams, port = 8, free_port()
    url = f"http://127.0.0.1:{port}"
    settings = {
        "host": "127.0.0.1", "port": port, "interrupt_requests": False,
        "models": [{
            "model": str(subject.path), "model_alias": "peer",
            "n_ctx": subject.context_tokens, "n_threads": subject.threads,
            "n_threads_batch": subject.threads, "verbose": False,
        }],
    }  # fmt: skip
    file = BUILD / "llama-cpp-python.json"
    file.write_text(json.dumps(settings), encoding="utf-8")
    command = [sys.executable, "-m", "llama_cpp.server", "--config_file", str(file)]
    with (
        running(command, url, BUILD / "llama-cpp-python.log", "/v1/models"),
        device_agent(subject, parallel=streams) as agent,
    ):
        (value,) = median_rates(subject, streams, [(agent.url, agent.model)])
        peer_value = asyncio.run(_whole_rate(url, subject, streams))
    name = f"runtime/{subject.name}/streams-{streams}-python"
    return Result(name, value, "tokens/s", "llama-cpp-python server", peer_value, 3.0)


async def _whole_rate(url: str, subject: Subject, streams: int) -> float:
    """Unstreamed, and no longer than the model wants: this server knows no ignore_eos."""
    rng = random.Random(1)
    async with httpx.AsyncClient(base_url=url, timeout=600) as client:

        async def ask() -> int:
            body = {
                "model": "peer", "prompt": _prompt(rng), "max_tokens": subject.tokens,
                "temperature": 0.0,
            }  # fmt: skip
            response = await client.post("/v1/completions", json=body)
            return int(response.raise_for_status().json()["usage"]["completion_tokens"])

        await ask()
        started_s = time.perf_counter()
        counts = await asyncio.gather(*(ask() for _ in range(streams)))
        return sum(counts) / (time.perf_counter() - started_s)


def run() -> list[Result]:
    """Measure the 0.5 B shape and two shipped models."""
    big = qwen()
    results = []
    for subject in (big, shipped("mathematics"), shipped("cloud")):
        results += [_against_llama_server(subject, streams) for streams in STREAMS]
    # Servers are rarely full: seven rows can take longer than eight.
    results.append(_against_llama_server(big, 7, places=8))
    return [*results, _against_llama_cpp_python(big)]
