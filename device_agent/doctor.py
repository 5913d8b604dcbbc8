"""What this board can run, with which settings, and why."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import llama_cpp
import psutil

from device_agent.config import physical_cores
from device_agent.engine import Model
from device_agent.engine.chat_template import SAY_ANOTHER_TEMPLATE
from device_agent.engine.context import Batch, Context, KeyValueType
from device_agent.engine.memory_estimate import (
    MemoryNeed,
    ModelShape,
    available_bytes,
    estimate,
    mebibytes,
    read_shape,
)
from device_agent.sensors import BoardSensors

_SHARE_OF_MEMORY = 0.8
"""Of what is available; the rest is for whatever else the board does."""
_PARALLEL = (16, 8, 4, 2, 1)
_CONTEXT_TOKENS = (4096, 2048, 1024, 512)
_KEY_VALUE_TYPES: tuple[KeyValueType, ...] = ("f16", "q8_0")
_BATCH_TOKENS = 512
_PROMPT_TOKENS = 64
_DECODED_TOKENS = 16
_MEASURE_S = 1.0
_WORTH_A_THREAD = 1.05


@dataclass(frozen=True, slots=True)
class Board:
    """What matters of a board for running models."""

    name: str
    processor: str
    physical_cores: int
    logical_cores: int
    memory_total_bytes: int
    memory_available_bytes: int
    gpu: bool
    """Whether this build of llama.cpp computes on a GPU."""
    instructions: str
    """What this build of llama.cpp uses of the processor."""
    throttled: str | None
    """Why the board runs slower than it could; None where it does not, or does not tell."""


@dataclass(frozen=True, slots=True)
class ThreadRate:
    """Speed with so many threads, in tokens per second."""

    threads: int
    prefill: float
    decode: float


@dataclass(frozen=True, slots=True)
class Advice:
    """What to run a model with; `settings` is None where it does not fit."""

    path: Path
    settings: dict[str, Any] | None
    need: MemoryNeed
    rates: tuple[ThreadRate, ...]
    reasons: tuple[str, ...]


def processor_name() -> str:
    """The processor's own name."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith(("model name", "Model"))
    ]
    return names[0] if names else platform.machine()


def inspect_board(sensors: BoardSensors | None = None) -> Board:
    """Look at this board."""
    sensors = sensors or BoardSensors()
    flags = llama_cpp.llama_print_system_info().decode()
    throttling = sensors.read().throttling
    active = []
    if throttling is not None:
        now = ("under_voltage", "frequency_capped", "throttled", "soft_temperature_limit")
        active = [flag.replace("_", " ") for flag in now if getattr(throttling, flag)]
    return Board(
        name=sensors.model or platform.node(),
        processor=processor_name(),
        physical_cores=physical_cores(),
        logical_cores=os.cpu_count() or 1,
        memory_total_bytes=psutil.virtual_memory().total,
        memory_available_bytes=available_bytes(),
        gpu=bool(llama_cpp.llama_supports_gpu_offload()),
        instructions=", ".join(
            part.partition("=")[0].strip().split(": ")[-1]
            for part in flags.split("|")
            if part.strip().endswith("= 1")
        ),
        throttled=", ".join(active) or None,
    )


def measure(path: Path, threads: int) -> ThreadRate:
    """Read a short prompt and decode some tokens, for about a second."""
    model = Model(path)
    context = Context(model, context_tokens=256, batch_tokens=_PROMPT_TOKENS, threads=threads)
    batch = Batch(context.batch_tokens)
    prompt = [index % min(100, model.vocabulary_size) for index in range(_PROMPT_TOKENS)]
    prefill_s, decode_s, rounds = 0.0, 0.0, 0
    ends_s = time.perf_counter() + _MEASURE_S
    # The first round pays for pages that are not in memory yet: it is not counted.
    while rounds < 2 or time.perf_counter() < ends_s:
        context.forget(0)
        batch.clear()
        batch.extend(prompt, 0, 0, output=True)
        started_s = time.perf_counter()
        context.decode(batch)
        read_s = time.perf_counter()
        for step in range(_DECODED_TOKENS):
            batch.clear()
            batch.add(prompt[step], _PROMPT_TOKENS + step, 0)
            context.decode(batch)
        if rounds:
            prefill_s += read_s - started_s
            decode_s += time.perf_counter() - read_s
        rounds += 1
    context.close()
    model.close()
    counted = rounds - 1
    return ThreadRate(
        threads, counted * _PROMPT_TOKENS / prefill_s, counted * _DECODED_TOKENS / decode_s
    )


def template_reasons(path: Path) -> list[str]:
    """What is to be said about a model's chat template: nothing where it can be used."""
    model = Model(path)
    try:
        problem = model.chat_template.problem if model.causal else ""
    finally:
        model.close()
    return [f"{problem}: it continues text only, until {SAY_ANOTHER_TEMPLATE}"] if problem else []


def choose_threads(rates: Sequence[ThreadRate]) -> ThreadRate:
    """The fewest threads that none with more beat by a twentieth in decoding."""
    best = rates[0]
    for rate in rates[1:]:
        if rate.decode > best.decode * _WORTH_A_THREAD:
            best = rate
    return best


def choose_size(shape: ModelShape, available: int) -> tuple[dict[str, Any], MemoryNeed] | None:
    """The longest context, then the finest cache, then the most generations that fit; None: none."""
    contexts = [tokens for tokens in _CONTEXT_TOKENS if tokens <= shape.trained_context_tokens]
    for context_tokens in contexts or [shape.trained_context_tokens]:
        for key_value_type in _KEY_VALUE_TYPES:
            for parallel in _PARALLEL:
                need = estimate(
                    shape,
                    parallel=parallel,
                    context_tokens=context_tokens,
                    batch_tokens=_BATCH_TOKENS,
                    key_value_type=key_value_type,
                    outputs=parallel,
                    embeddings=True,
                )
                if need.total <= available:
                    size = {
                        "context_tokens": context_tokens,
                        "parallel": parallel,
                        "key_value_type": key_value_type,
                    }
                    return size, need
    return None


def advise(path: Path, board: Board) -> Advice:
    """Find the settings for a model on this board, by its sizes and by running it.

    Raises:
        ModelLoadError: the file is no model that llama.cpp can load.
    """
    shape = read_shape(path)
    budget = int(board.memory_available_bytes * _SHARE_OF_MEMORY)
    chosen = choose_size(shape, budget)
    if chosen is None:
        least = estimate(
            shape, parallel=1, context_tokens=min(_CONTEXT_TOKENS), batch_tokens=_BATCH_TOKENS,
            key_value_type="q8_0", outputs=1, embeddings=True,
        )  # fmt: skip
        reason = (
            f"does not fit: needs at least {least}; {_SHARE_OF_MEMORY:.0%} of what is available "
            f"are {mebibytes(budget)}"
        )
        return Advice(path, None, least, (), (reason,))
    size, need = chosen
    counts = sorted({1, 2, board.physical_cores // 2, board.physical_cores} - {0})
    rates = tuple(measure(path, threads) for threads in counts if threads <= board.physical_cores)
    best = choose_threads(rates)
    reasons = [
        f"needs {need} of {mebibytes(budget)} ({_SHARE_OF_MEMORY:.0%} of what is available)",
        f"{best.threads} thread{'s' * (best.threads > 1)}: "
        + "; ".join(
            f"{rate.threads}: {rate.prefill:.0f} tokens/s reading, {rate.decode:.0f} writing"
            for rate in rates
        ),
    ]
    if size["context_tokens"] < min(max(_CONTEXT_TOKENS), shape.trained_context_tokens):
        reasons.append(
            f"a context of {size['context_tokens']} tokens although the model was trained with "
            f"{shape.trained_context_tokens}: more does not fit"
        )
    if size["key_value_type"] != "f16":
        reasons.append("keys and values in 8 bits: 16 do not fit")
    if board.throttled:
        reasons.append(f"the board runs slower than it could now: {board.throttled}")
    reasons += template_reasons(path)
    settings = {"path": str(path), "threads": best.threads, **size}
    return Advice(path, settings, need, rates, tuple(reasons))


def report(board: Board, advice: Sequence[Advice]) -> dict[str, Any]:
    """All of it as data."""
    return {
        "board": asdict(board),
        "models": [
            {
                "path": str(one.path),
                "fits": one.settings is not None,
                "settings": one.settings,
                "need_bytes": {**asdict(one.need), "total": one.need.total},
                "rates": [asdict(rate) for rate in one.rates],
                "reasons": list(one.reasons),
            }
            for one in advice
        ],
    }


def describe(board: Board, advice: Sequence[Advice]) -> str:
    """All of it for people; what to copy into a settings file is indented as YAML."""
    lines = [
        f"board       {board.name}",
        f"processor   {board.processor}, {board.physical_cores} cores "
        f"({board.logical_cores} threads); {board.instructions}",
        f"memory      {mebibytes(board.memory_available_bytes)} available of "
        f"{mebibytes(board.memory_total_bytes)}",
        f"GPU         {'used by this build' if board.gpu else 'not used by this build'}",
    ]
    if board.throttled:
        lines.append(f"throttled   {board.throttled}")
    for one in advice:
        lines += ["", str(one.path), *(f"  # {reason}" for reason in one.reasons)]
        if one.settings is not None:
            lines.append("  model:")
            lines += [f"    {key}: {value}" for key, value in one.settings.items()]
    return "\n".join(lines)
