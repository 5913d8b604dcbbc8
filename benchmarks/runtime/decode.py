"""One stream, engine against llama-bench: what the loop around llama_decode costs."""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
from concurrent.futures import ProcessPoolExecutor

from benchmarks.result import Result
from benchmarks.runtime.llama_cpp_programs import llama_bench
from benchmarks.runtime.subjects import Subject, qwen, shipped
from device_agent.engine import Engine, EngineSettings, GenerateRequest, Model

_TURNS = 3
_REPEATS = 5
_PROMPT_TOKENS = 128


async def _measure(subject: Subject, generated: int) -> tuple[float, float]:
    """Prefill and decode rates in tokens/s, as the engine times itself."""
    settings = EngineSettings(
        threads=subject.threads, parallel=1, context_tokens=subject.context_tokens
    )
    engine = Engine(Model(subject.path), settings)
    prefill, decode = [], []
    for turn in range(_REPEATS + 1):
        # Another first token each time: nothing is found in the cache.
        prompt = tuple((10 + turn + 7 * i) % 80 + 5 for i in range(_PROMPT_TOKENS))
        done = await engine.generate(GenerateRequest(prompt, max_tokens=1, scores=False))
        prefill.append(done.prompt_tokens / done.prefill_ms * 1e3)
        # llama-bench decodes from an empty context.
        request = GenerateRequest(
            prompt[:1], max_tokens=generated + 1, ignore_end=True, scores=False
        )
        decode.append(generated / (await engine.generate(request)).decode_ms * 1e3)
    await asyncio.to_thread(engine.close)
    return statistics.median(prefill[1:]), statistics.median(decode[1:])


def _engine(subject: Subject, generated: int) -> tuple[float, float]:
    return asyncio.run(_measure(subject, generated))


def _alone(subject: Subject, generated: int) -> tuple[float, float]:
    """Measure in a process of its own: OpenMP's threads of one would slow another's."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_engine, subject, generated).result()


def run() -> list[Result]:
    """Measure in turns, engine and llama-bench; report medians."""
    results = []
    for subject in (qwen(), shipped("mathematics"), shipped("cloud")):
        generated = 32 if subject.name.startswith("qwen") else 200
        ours, peer = [], []
        for _ in range(_TURNS):
            bare = llama_bench(
                subject.path, threads=subject.threads, prompt=_PROMPT_TOKENS, generate=generated
            )
            peer.append((bare.prefill, bare.decode))
            ours.append(_alone(subject, generated))
        for index, (phase, goal) in enumerate((("prefill", 0.9), ("decode", 0.98))):
            results.append(
                Result(
                    f"runtime/{subject.name}/{phase}",
                    statistics.median(pair[index] for pair in ours),
                    "tokens/s",
                    "llama-bench",
                    statistics.median(pair[index] for pair in peer),
                    goal,
                )
            )
    return results
