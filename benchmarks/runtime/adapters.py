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
from device_agent.engine.adapter_contexts import AdapterContexts
from device_agent.engine.adapters import Adapters
from device_agent.engine.context import Batch, Context
from device_agent.engine.requests import AdapterUse

_LIMIT_MS = 1.0
_PASSES = 40


def _switch_ms(subject: Subject, folder: Path, contexts: int) -> float:
    """A pass after a switch, less a pass without one (medians)."""
    model = Model(subject.path)
    adapter_contexts = AdapterContexts(
        lambda: Context(model, context_tokens=subject.context_tokens, threads=subject.threads),
        most=contexts,
        slots=1,
    )
    adapters = Adapters(model)
    sets = []
    for name, seed in (("one", 1), ("two", 2)):
        path = write_random_lora(subject.path, folder / f"{subject.name}-{name}.gguf", seed=seed)
        adapters.load(name, path)
        sets.append(adapters.resolve([AdapterUse(name)]))
    batch = Batch(adapter_contexts.first.context.batch_tokens)
    positions = [0] * contexts
    times: dict[bool, list[float]] = {False: [], True: []}
    for number in range(2 * _PASSES + 4):
        # Pairs of passes: the first of each after a switch, the second without.
        switched = number % 2 == 0
        wanted = sets[number // 2 % 2]
        started_s = time.perf_counter()
        chosen = adapter_contexts.context_for(wanted)
        chosen.use(wanted)
        batch.clear()
        batch.add(5 + number % 50, positions[chosen.number], 0)
        chosen.context.decode(batch)
        positions[chosen.number] += 1
        # Contexts are made when they are first asked for.
        if number >= 4:
            times[switched].append(time.perf_counter() - started_s)
    adapter_contexts.close()
    model.close()
    return (statistics.median(times[True]) - statistics.median(times[False])) * 1e3


def run() -> list[Result]:
    """Measure rank-16 adapters of all query and value projections.

    In one context, as without `adapter_contexts`, and with a context for each.
    """
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for subject in (qwen(), shipped("cloud")):
            for name, contexts in (("adapter-switch", 3), ("adapter-switch/one-context", 1)):
                value = _switch_ms(subject, Path(folder), contexts)
                name = f"runtime/{subject.name}/{name}"
                results.append(Result(name, value, "ms", "limit", _LIMIT_MS, at_most=1.0))
    return results
