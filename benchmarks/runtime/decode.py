"""One stream, engine against llama-bench: what the loop around llama_decode costs."""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from benchmarks.result import Result
from benchmarks.runtime.llama_cpp_programs import Rates, llama_bench
from benchmarks.runtime.subjects import Subject, qwen, shipped
from device_agent.engine import Engine, EngineSettings, GenerateRequest, Model
from device_agent.engine.context import Batch, Context

_TURNS, _LEAST_S = 12, 60.0
"""At least so many turns, and so long: on a host that others use, a second's speed is chance."""
_PROMPT_TOKENS = 128

T = TypeVar("T")


async def _rates(subject: Subject, generated: int) -> Rates:
    """Prefill and decode as the engine times itself, after a warm-up as llama-bench has one."""
    settings = EngineSettings(
        threads=subject.threads, parallel=1, context_tokens=subject.context_tokens
    )
    engine = Engine(Model(subject.path), settings)
    for turn in range(2):
        # Other tokens each time: nothing is found in the cache.
        prompt = tuple((10 + turn + 7 * i) % 80 + 5 for i in range(_PROMPT_TOKENS))
        read = await engine.generate(GenerateRequest(prompt, max_tokens=1, scores=False))
    # llama-bench decodes from an empty context.
    request = GenerateRequest(prompt[:1], max_tokens=generated + 1, ignore_end=True, scores=False)
    written = await engine.generate(request)
    await asyncio.to_thread(engine.close)
    return Rates(
        prefill=read.prompt_tokens / read.prefill_ms * 1e3,
        decode=generated / written.decode_ms * 1e3,
    )


def _engine(subject: Subject, generated: int) -> Rates:
    return asyncio.run(_rates(subject, generated))


def _bare_loop(subject: Subject, generated: int) -> float:
    """Decode in tokens per second of the least that Python can do: decode, and choose the likeliest."""
    model = Model(subject.path)
    context = Context(
        model,
        sequences=1,
        context_tokens=subject.context_tokens,
        threads=subject.threads,
        outputs=1,
    )
    batch = Batch(1)
    # The first time warms up.
    for _ in range(2):
        context.forget(0)
        batch.clear()
        batch.add(5, 0, 0)
        logits = context.decode(batch)
        started_s = time.perf_counter()
        for _ in range(generated):
            batch.advance((0,), (int(logits.argmax()),))
            logits = context.decode(batch)
        duration_s = time.perf_counter() - started_s
    context.close()
    model.close()
    return generated / duration_s


def _alone(measure: Callable[[Subject, int], T], subject: Subject, generated: int) -> T:
    """Measure in a process that has just begun, as llama-bench does."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(measure, subject, generated).result()


@dataclass
class _Turns:
    """What each turn measured."""

    engine: list[Rates] = field(default_factory=list)
    llama_bench: list[Rates] = field(default_factory=list)
    bare_loop: list[float] = field(default_factory=list)


def _measure(subject: Subject, generated: int) -> _Turns:
    turns = _Turns()

    def peer() -> None:
        rates = llama_bench(
            subject.path, threads=subject.threads, prompt=_PROMPT_TOKENS, generate=generated
        )
        turns.llama_bench.append(rates)

    order: deque[Callable[[], None]] = deque(
        (
            peer,
            lambda: turns.engine.append(_alone(_engine, subject, generated)),
            lambda: turns.bare_loop.append(_alone(_bare_loop, subject, generated)),
        )
    )
    begin_s = time.monotonic()
    while len(turns.engine) < _TURNS or time.monotonic() < begin_s + _LEAST_S:
        for measure in order:
            measure()
        # A host that lends its processors for a while may take them back from whoever comes last.
        order.rotate()
    return turns


def run() -> list[Result]:
    """Measure the 0.5 B shape and two shipped models; report medians."""
    results = []
    for subject in (qwen(), shipped("mathematics"), shipped("cloud")):
        turns = _measure(subject, 32 if subject.name.startswith("qwen") else 200)
        ours, peers = turns.engine, turns.llama_bench
        peers_decode = [rates.decode for rates in peers]
        rows = (
            ("prefill", [rates.prefill for rates in ours], [rates.prefill for rates in peers], 0.9),
            ("decode", [rates.decode for rates in ours], peers_decode, 0.98),
            ("decode/bare-loop", turns.bare_loop, peers_decode, None),
        )
        results += [
            Result(
                f"runtime/{subject.name}/{row}",
                statistics.median(values),
                "tokens/s",
                "llama-bench",
                statistics.median(peer_values),
                goal,
            )
            for row, values, peer_values, goal in rows
        ]
    return results
