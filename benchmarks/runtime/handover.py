"""Moving a running generation of 512 tokens, against reading it anew."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from benchmarks.result import Result
from benchmarks.runtime.subjects import Subject, qwen
from device_agent.engine import Engine, EngineSettings, GenerateRequest, Model, SequenceState

_TOKENS = 512


@dataclass(frozen=True, slots=True)
class _Moved:
    export_ms: float
    import_ms: float
    size_bytes: int
    prefill_ms: float


async def _move(subject: Subject) -> _Moved:
    settings = EngineSettings(threads=subject.threads, parallel=1, context_tokens=1024)
    model = Model(subject.path)
    here, there = Engine(model, settings), Engine(Model(subject.path), settings)
    # Both must know their model's hash: it is read once, at start-up.
    assert here.description.sha256 == there.description.sha256
    prompt = tuple((11 * i) % 80 + 5 for i in range(_TOKENS - 2))
    request = GenerateRequest(prompt, max_tokens=16, ignore_end=True)
    generation = await here.start(request)
    await anext(aiter(generation))
    started_s = time.perf_counter()
    data = (await generation.suspend()).to_bytes()
    exported_s = time.perf_counter()
    resumed = await there.resume(SequenceState.from_bytes(data))
    await anext(aiter(resumed))
    imported_s = time.perf_counter()
    completion = await resumed.completion()
    anew = await there.generate(GenerateRequest(prompt[::-1], max_tokens=1))
    for engine in (here, there):
        await asyncio.to_thread(engine.close)
    # One step of decoding is part of what the resumed engine had to do.
    step_ms = completion.decode_ms / completion.completion_tokens
    return _Moved(
        export_ms=(exported_s - started_s) * 1e3,
        import_ms=(imported_s - exported_s) * 1e3 - step_ms,
        size_bytes=len(data),
        prefill_ms=anew.prefill_ms,
    )


def _measure(subject: Subject) -> _Moved:
    return asyncio.run(_move(subject))


def run() -> list[Result]:
    """Measure the 0.5 B shape; the peer is the time to read 512 tokens again."""
    context = multiprocessing.get_context("spawn")
    subject = qwen()
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        moved = pool.submit(_measure, subject).result()
    peer = "reading 512 tokens"
    name = f"runtime/{subject.name}/handover-512"
    megabytes = moved.size_bytes / 1e6
    return [
        Result(f"{name}/export", moved.export_ms, "ms", peer, moved.prefill_ms, at_most=0.5),
        Result(f"{name}/import", moved.import_ms, "ms", peer, moved.prefill_ms, at_most=0.5),
        Result(f"{name}/size", megabytes, "MB", "keys and values", 512 * 24 * 256 * 2 / 1e6),
    ]
