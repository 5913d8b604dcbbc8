"""What drafts bring: on a large model with a small one that often knows, and where they do not pay.

No two real models of such sizes can be shipped. The large one is therefore the shipped generalist
with further layers that change nothing (their output weights are zero) but are computed all the
same; the draft is a shipped specialist, and what it guesses right is as real as both models.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

from benchmarks.gguf_files import copy_field, finish
from benchmarks.result import Result
from benchmarks.runtime.subjects import BUILD, shipped
from collaboration.questions import held_out
from device_agent.engine import Engine, EngineSettings, GenerateRequest, Model

_LAYERS = 96
_QUESTIONS = 12


def padded(source: Path, layers: int, target: Path) -> Path:
    """Write a model with idle layers added behind its own."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, "llama")
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        copy_field(field, writer, layers if field.name == "llama.block_count" else None)
    own = int(reader.fields["llama.block_count"].contents())
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        if not tensor.name.startswith("blk.0."):
            continue
        adds = tensor.name.endswith(("attn_output.weight", "ffn_down.weight"))
        data = np.zeros_like(tensor.data) if adds else tensor.data
        for layer in range(own, layers):
            name = tensor.name.replace("blk.0.", f"blk.{layer}.")
            writer.add_tensor(name, data, raw_dtype=tensor.tensor_type)
    finish(writer)
    return target


@dataclass(frozen=True, slots=True)
class _Run:
    rate: float
    acceptance: float
    texts: tuple[str, ...]


async def _answer(target: Path, draft: Path | None) -> _Run:
    engine = Engine(
        Model(target),
        EngineSettings(threads=1, parallel=1),
        draft=None if draft is None else Model(draft),
    )
    tokens = drafted = accepted = 0
    texts = []
    started_s = time.perf_counter()
    for question in held_out(_QUESTIONS, 31, ["mathematics"]):
        prompt = engine.model.user_prompt(question.text)
        done = await engine.generate(GenerateRequest(prompt, max_tokens=150, scores=False))
        tokens += done.completion_tokens
        drafted += done.drafted_tokens
        accepted += done.accepted_tokens
        texts.append(done.text)
    rate = tokens / (time.perf_counter() - started_s)
    await asyncio.to_thread(engine.close)
    return _Run(rate, accepted / drafted if drafted else 0.0, tuple(texts))


def _measure(target: Path, draft: Path | None) -> _Run:
    return asyncio.run(_answer(target, draft))


def _pair(target: Path, draft: Path) -> tuple[_Run, _Run]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        plain = pool.submit(_measure, target, None).result()
        return pool.submit(_measure, target, draft).result(), plain


def run() -> list[Result]:
    """Measure sums; the specialist drafts for the enlarged generalist, and for the plain one."""
    BUILD.mkdir(parents=True, exist_ok=True)
    cloud, draft = shipped("cloud").path, shipped("mathematics").path
    large = padded(cloud, _LAYERS, BUILD / f"airloom-cloud-{_LAYERS}-layers.gguf")
    results = []
    # Where it cannot pay, the trials are all it may cost.
    for name, target, goal in (("large", large, 1.0), ("small", cloud, 0.85)):
        with_drafts, plain = _pair(target, draft)
        same = sum(a == b for a, b in zip(with_drafts.texts, plain.texts, strict=True))
        results += [
            Result(
                f"runtime/drafts/{name}", with_drafts.rate, "tokens/s", "without", plain.rate, goal
            ),
            Result(
                f"runtime/drafts/{name}/accepted", with_drafts.acceptance, "of drafts", "all", 1.0
            ),
            Result(
                f"runtime/drafts/{name}/same-text", same, "answers", "all", len(plain.texts), 1.0
            ),
        ]
    return results
