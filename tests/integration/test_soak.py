"""A small part of what `make bench-runtime` does ten thousand times."""

import asyncio
from pathlib import Path

from agents import MODELS

from benchmarks.runtime.lora_file import write_random_lora
from benchmarks.runtime.soak import soak
from device_agent.engine import Engine, EngineSettings, Model


async def test_requests_of_all_kinds_are_answered_and_never_crossed(tmp_path: Path) -> None:
    engine = Engine(
        Model(MODELS["mathematics"]), EngineSettings(threads=1, parallel=8, queue_length=128)
    )
    names = ["one", "two"]
    for seed, name in enumerate(names):
        path = tmp_path / f"{name}.gguf"
        await engine.load_adapter(
            name, write_random_lora(MODELS["mathematics"], path, rank=4, seed=seed)
        )
    tally = await soak(engine, names, requests=800, seed=1)
    await asyncio.to_thread(engine.close)
    assert tally.unanswered == 0
    assert tally.crossed == 0
    assert tally.outcomes.keys() == {
        "Completion",
        "CancelledTaskError",
        "DeadlineExceededError",
        "InvalidTaskError",
    }
    assert engine.statistics.adapter_switches > 10
