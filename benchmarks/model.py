"""How fast the engine prefills and decodes, against llama.cpp's bare loop on the same file."""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import psutil

from benchmarks.qwen_shape import QwenShape, write_random
from benchmarks.result import Result
from device_agent.engine import Engine, GenerateRequest, Model

BUILD = Path("build/bench")
_PREFILL_TOKENS = 256
_DECODE_TOKENS = 32
_REPEATS = 5


def qwen_file() -> Path:
    """Return the random Qwen2 0.5 B in Q4_0, made where it is not there yet."""
    path = BUILD / "random-qwen2-0.5b.Q4_0.gguf"
    if not path.exists():
        write_random(QwenShape(), "Q4_0", path)
    return path


def _bare(path: Path, threads: int, prompt: str) -> tuple[float, float]:
    """Prefill and decode rates (tokens/s) of llama_decode alone, as llama-bench times it."""
    model = Model(path, context_tokens=1024, threads=threads)
    tokens = model.tokenize(prompt)
    prefill, decode = [], []
    for _ in range(_REPEATS + 1):
        model.restart()
        started_s = time.perf_counter()
        model.decode(tokens)
        prefilled_s = time.perf_counter()
        for token in tokens[:_DECODE_TOKENS]:
            model.decode([token])
        done_s = time.perf_counter()
        prefill.append(len(tokens) / (prefilled_s - started_s))
        decode.append(_DECODE_TOKENS / (done_s - prefilled_s))
    model.close()
    return statistics.median(prefill[1:]), statistics.median(decode[1:])


def _engine(path: Path, threads: int, prompt: str) -> tuple[float, float]:
    """Prefill and decode rates (tokens/s) of the engine, as it times itself."""
    return asyncio.run(_generate(path, threads, prompt))


def _alone(
    measure: Callable[[Path, int, str], tuple[float, float]], path: Path, threads: int, prompt: str
) -> tuple[float, float]:
    """Measure in a process of its own: OpenMP's threads of the one would slow the other's."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(measure, path, threads, prompt).result()


async def _generate(path: Path, threads: int, prompt: str) -> tuple[float, float]:
    engine = Engine(Model(path, context_tokens=1024, threads=threads))
    prefill, decode = [], []
    for _ in range(_REPEATS + 1):
        # Sampled, hot: random weights would else repeat one token, and might end at once.
        request = GenerateRequest(prompt, max_tokens=_DECODE_TOKENS + 1, temperature=5.0, seed=1)
        done = await engine.generate(request)
        prefill.append(done.prompt_tokens / done.prefill_ms * 1e3)
        decode.append((len(done.tokens) - 1) / done.decode_ms * 1e3)
    await asyncio.to_thread(engine.close)
    return statistics.median(prefill[1:]), statistics.median(decode[1:])


def run() -> list[Result]:
    """Measure the 0.5 B shape and the shipped generalist."""
    threads = psutil.cpu_count(logical=False) or 1
    rng = np.random.default_rng(0)
    letters = [chr(ord("a") + i) for i in rng.integers(0, 26, _PREFILL_TOKENS)]
    results = []
    for name, path in (
        ("qwen2-0.5b-Q4_0", qwen_file()),
        ("airloom-cloud", Path("models/airloom-cloud.Q8_0.gguf")),
    ):
        prompt = " ".join(letters)[: _PREFILL_TOKENS if "airloom" in name else None]
        bare = _alone(_bare, path, threads, prompt)
        engine = _alone(_engine, path, threads, prompt)
        for what, value, peer_value in zip(("prefill", "decode"), engine, bare, strict=True):
            results.append(
                Result(
                    f"model/{name}/{what}", value, "tokens/s", "bare llama_decode", peer_value, 0.9
                )
            )
    return results
