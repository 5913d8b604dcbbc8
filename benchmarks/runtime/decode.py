"""One stream, engine against llama-bench: what the loop around llama_decode costs."""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor

from benchmarks.result import Result
from benchmarks.runtime.llama_cpp_programs import Rates, llama_bench
from benchmarks.runtime.subjects import Subject, qwen, shipped
from device_agent.engine import Engine, EngineSettings, GenerateRequest, Model

_TURNS, _LEAST_S = 7, 60.0
"""At least so many turns, and so long: on a host that others use, a second's speed is chance."""
_PROMPT_TOKENS = 128


class _Served:
    """An engine in a process of its own: OpenMP's threads of one would slow another's."""

    engine: Engine

    @classmethod
    def open(cls, subject: Subject) -> None:
        settings = EngineSettings(
            threads=subject.threads, parallel=1, context_tokens=subject.context_tokens
        )
        cls.engine = Engine(Model(subject.path), settings)

    @classmethod
    def rates(cls, turn: int, generated: int) -> Rates:
        """Prefill and decode as the engine times itself."""
        return asyncio.run(cls._rates(turn, generated))

    @classmethod
    async def _rates(cls, turn: int, generated: int) -> Rates:
        # Other tokens each time: nothing is found in the cache.
        prompt = tuple((10 + turn + 7 * i) % 80 + 5 for i in range(_PROMPT_TOKENS))
        read = await cls.engine.generate(GenerateRequest(prompt, max_tokens=1, scores=False))
        # llama-bench decodes from an empty context.
        request = GenerateRequest(
            prompt[:1], max_tokens=generated + 1, ignore_end=True, scores=False
        )
        written = await cls.engine.generate(request)
        return Rates(
            prefill=read.prompt_tokens / read.prefill_ms * 1e3,
            decode=generated / written.decode_ms * 1e3,
        )


def _measure(subject: Subject, generated: int) -> tuple[list[Rates], list[Rates]]:
    """The engine's rates and llama-bench's, taken in turns."""
    ours: list[Rates] = []
    peers: list[Rates] = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        1, mp_context=context, initializer=_Served.open, initargs=(subject,)
    ) as pool:
        pool.submit(_Served.rates, -1, generated).result()
        begin_s = time.monotonic()
        while len(ours) < _TURNS or time.monotonic() < begin_s + _LEAST_S:
            peers.append(
                llama_bench(
                    subject.path, threads=subject.threads, prompt=_PROMPT_TOKENS, generate=generated
                )
            )
            ours.append(pool.submit(_Served.rates, len(ours), generated).result())
    return ours, peers


def run() -> list[Result]:
    """Measure the 0.5 B shape and two shipped models; report medians."""
    results = []
    for subject in (qwen(), shipped("mathematics"), shipped("cloud")):
        ours, peers = _measure(subject, 32 if subject.name.startswith("qwen") else 200)
        for phase, goal in (("prefill", 0.9), ("decode", 0.98)):
            value, peer_value = (
                statistics.median(getattr(rates, phase) for rates in some) for some in (ours, peers)
            )
            results.append(
                Result(
                    f"runtime/{subject.name}/{phase}",
                    value,
                    "tokens/s",
                    "llama-bench",
                    peer_value,
                    goal,
                )
            )
    return results
