"""Ten thousand requests of all kinds: none unanswered, none crossed, no memory kept."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import statistics
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from airloom.errors import (
    CancelledTaskError,
    DeadlineExceededError,
    InvalidTaskError,
)
from benchmarks.result import Result
from benchmarks.runtime.lora_file import write_random_lora
from benchmarks.runtime.subjects import shipped
from device_agent.engine import (
    AdapterUse,
    Engine,
    EngineSettings,
    GenerateRequest,
    Model,
)

REQUESTS = 10_000
_CONCURRENT = 64
_WARM = 0.2
"""The share of requests after which the memory is taken as settled."""
_WINDOW = 0.1
"""The share of requests over which it is taken, as a median: changing adapters makes llama.cpp allocate
its buffers anew, beside the old ones."""


@dataclass
class Tally:
    """What became of the requests."""

    outcomes: Counter[str] = field(default_factory=Counter)
    crossed: int = 0
    unanswered: int = 0
    settled_bytes: int = 0
    final_bytes: int = 0
    duration_s: float = 0.0


async def soak(engine: Engine, adapters: list[str], requests: int, seed: int = 0) -> Tally:
    """Send random requests, right and wrong ones, and compare every text with the right one.

    A text that was cut off must begin as the whole one does.
    """
    rng = random.Random(seed)
    sums = [f"What is {rng.randint(10, 99)}+{rng.randint(10, 99)}?" for _ in range(12)]
    uses = [(), *((AdapterUse(name),) for name in adapters)]
    expected: dict[tuple[str, int], str] = {}
    for question in sums:
        for number, use in enumerate(uses):
            done = await engine.generate(_request(engine, question, use, 200))
            expected[question, number] = done.text
    tally, process = Tally(), psutil.Process()
    started_s = time.monotonic()
    numbers = iter(range(requests))
    sizes: list[int] = []

    async def ask_one_after_the_other() -> None:
        for _ in numbers:
            sizes.append(process.memory_info().rss)
            await _one(engine, rng, sums, uses, expected, tally)

    await asyncio.gather(*(ask_one_after_the_other() for _ in range(_CONCURRENT)))
    first, window = int(requests * _WARM), int(requests * _WINDOW)
    tally.settled_bytes = int(statistics.median(sizes[first : first + window]))
    tally.final_bytes = int(statistics.median(sizes[-window:]))
    tally.duration_s = time.monotonic() - started_s
    tally.unanswered = requests - sum(tally.outcomes.values())
    return tally


def _request(
    engine: Engine, question: str, use: tuple[AdapterUse, ...], tokens: int
) -> GenerateRequest:
    prompt = engine.model.user_prompt(question)
    return GenerateRequest(prompt, max_tokens=tokens, adapters=use)


async def _one(
    engine: Engine,
    rng: random.Random,
    sums: list[str],
    uses: list[tuple[AdapterUse, ...]],
    expected: dict[tuple[str, int], str],
    tally: Tally,
) -> None:
    question, number = rng.choice(sums), rng.randrange(len(uses))
    request = _request(engine, question, uses[number], rng.randint(1, 60))
    kind = rng.random()
    seen: list[str] = []
    try:
        if kind < 0.05:
            await engine.generate(rng.choice(_bad_requests()))
            tally.outcomes["bad input taken"] += 1
            return
        if kind < 0.15:
            deadline_s = time.monotonic() + rng.uniform(0, 0.2)
            request = GenerateRequest(
                request.prompt, max_tokens=60, adapters=request.adapters, deadline_s=deadline_s
            )
        generation = await engine.start(request)
        if 0.15 <= kind < 0.3:
            await asyncio.sleep(rng.uniform(0, 0.05))
            generation.cancel()
        async for delta in generation:
            seen.append(delta.text)
        outcome = type(await generation.completion()).__name__
    except (InvalidTaskError, DeadlineExceededError, CancelledTaskError) as error:
        # Not the error itself: it and this frame would keep one another.
        outcome = type(error).__name__
    tally.outcomes[outcome] += 1
    text = "".join(seen)
    tally.crossed += not expected[question, number].startswith(text)


def _bad_requests() -> list[GenerateRequest]:
    return [
        GenerateRequest("7" * 2000),
        GenerateRequest(()),
        GenerateRequest((1, 10**6)),
        GenerateRequest("x", max_tokens=0),
        GenerateRequest("x", adapters=(AdapterUse("none"),)),
    ]


async def _run(folder: Path) -> Tally:
    subject = shipped("mathematics")
    settings = EngineSettings(threads=1, parallel=8, queue_length=2 * _CONCURRENT)
    engine = Engine(Model(subject.path), settings)
    names = ["one", "two"]
    for seed, name in enumerate(names):
        path = write_random_lora(subject.path, folder / f"{name}.gguf", rank=4, seed=seed)
        await engine.load_adapter(name, path)
    try:
        return await soak(engine, names, REQUESTS)
    finally:
        await asyncio.to_thread(engine.close)


def _measure(folder: Path) -> Tally:
    return asyncio.run(_run(folder))


def run() -> list[Result]:
    """Measure on the shipped mathematician with two adapters."""
    context = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(1, mp_context=context) as pool,
    ):
        tally = pool.submit(_measure, Path(folder)).result()
    wrong = tally.crossed + tally.unanswered + tally.outcomes["bad input taken"]
    answered = sum(tally.outcomes.values())
    mebibyte = 1 << 20
    return [
        Result("runtime/soak/answered", answered, "requests", "sent", REQUESTS, 1.0, 1.0),
        Result("runtime/soak/right", REQUESTS - wrong, "requests", "sent", REQUESTS, 1.0),
        Result(
            "runtime/soak/memory",
            tally.final_bytes / mebibyte,
            "MiB",
            f"after {REQUESTS * _WARM:.0f}",
            tally.settled_bytes / mebibyte,
            at_most=1.02,
        ),
        Result("runtime/soak/rate", REQUESTS / tally.duration_s, "requests/s", "none", 1.0),
    ]
