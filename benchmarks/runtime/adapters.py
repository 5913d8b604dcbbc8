"""What changing from one LoRA adapter to another costs."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.result import Result
from benchmarks.runtime.lora_file import write_random_lora
from benchmarks.runtime.subjects import Subject, qwen, shipped
from device_agent.engine import Model
from device_agent.engine.adapters import Adapters
from device_agent.engine.context import Batch, Context
from device_agent.engine.requests import AdapterUse

_LIMIT_MS = 1.0
_PASSES = 40


def _switch_ms(subject: Subject, folder: Path) -> float:
    """A pass after a switch, less a pass without one (medians)."""
    model = Model(subject.path)
    context = Context(model, context_tokens=subject.context_tokens, threads=subject.threads)
    adapters = Adapters(model)
    sets = []
    for name, seed in (("one", 1), ("two", 2)):
        path = write_random_lora(subject.path, folder / f"{subject.name}-{name}.gguf", seed=seed)
        adapters.load(name, path)
        sets.append(adapters.resolve([AdapterUse(name)]))
    batch = Batch(context.batch_tokens)
    times: dict[bool, list[float]] = {False: [], True: []}
    for number in range(2 * _PASSES):
        # Pairs of passes: the first of each after a switch, the second without.
        switched = number % 2 == 0
        batch.clear()
        batch.add(5 + number % 50, number, 0)
        started_s = time.perf_counter()
        if switched:
            context.use_adapters(sets[number // 2 % 2].natives)
        context.decode(batch)
        times[switched].append(time.perf_counter() - started_s)
    context.close()
    model.close()
    return (statistics.median(times[True]) - statistics.median(times[False])) * 1e3


def run() -> list[Result]:
    """Measure rank-16 adapters of all query and value projections."""
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for subject in (qwen(), shipped("cloud")):
            value = _switch_ms(subject, Path(folder))
            name = f"runtime/{subject.name}/adapter-switch"
            results.append(Result(name, value, "ms", "limit", _LIMIT_MS, at_most=1.0))
    return results
