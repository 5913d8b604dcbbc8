"""Models that cannot do what is asked of them, or take more memory than was counted."""

from __future__ import annotations

from pathlib import Path

from benchmarks.agents import MEBIBYTE
from benchmarks.attacks.attack import (
    AgentSpec,
    Attack,
    Outcome,
    Site,
    Stage,
    infer_request,
    outcome_of,
    task,
    together,
)
from benchmarks.attacks.stages import board_settings, lone_board, merged
from benchmarks.encoder_file import write_encoder
from benchmarks.qwen_shape import QwenShape, write_random
from benchmarks.runtime.lora_file import write_random_lora
from benchmarks.runtime.subjects import shipped
from device_agent.config import ModelSettings
from device_agent.runtime import memory_need
from protos.airloom.v1 import inference_pb2, task_pb2


def _encoder(folder: Path) -> Stage:
    model = write_encoder(folder / "encoder.gguf")
    changes = {"model": {"path": str(model), "context_tokens": 128}}
    settings = merged(board_settings(folder), changes)
    return Stage({"board-a": AgentSpec("device", settings)}, "board-a", question="embeddings")


async def _complete(site: Site) -> Outcome:
    async with site.inference("board-a") as stub:
        asked = task("What is 12+25?")
        stream = stub.InferStream(inference_pb2.InferStreamRequest(task=asked))

        async def read() -> None:
            async for _ in stream:
                pass

        return together(
            await outcome_of(stub.Infer(infer_request(asked)), must_refuse=True),
            await outcome_of(read(), must_refuse=True),
        )


_ADAPTERS = 4


def _adapters(folder: Path) -> Stage:
    base = shipped("mathematics").path
    names = [f"a{number}" for number in range(_ADAPTERS)]
    loaded = [
        {
            "name": name,
            "path": str(write_random_lora(base, folder / f"{name}.gguf", rank=4, seed=seed)),
        }
        for seed, name in enumerate(names)
    ]
    return lone_board(folder, model={"adapters": loaded, "adapter_contexts": 4})


async def _sets(site: Site) -> Outcome:
    """Four hundred sets that nobody has asked for before, each with a prefix of its own."""
    async with site.inference("board-a") as stub:
        for number in range(400):
            uses = [
                task_pb2.AdapterUse(name=f"a{index}", scale=1 + (number * _ADAPTERS + index) / 1e4)
                for index in range(number % _ADAPTERS + 1)
            ]
            asked = task(f"What is {number}+25?", adapters=uses, max_tokens=2)
            outcome = await outcome_of(stub.Infer(infer_request(asked)))
            if outcome.wrong:
                return outcome
    return outcome


_SHAPE = QwenShape(layers=2, width=64, heads=2, key_value_heads=2, feed_forward=96, context=4096)
_ESTIMATED = 1.1
"""What is not counted (the heap's own) may be a tenth."""
_COUNTED_MIB = 128.0
"""The first long text takes what the estimate has counted for it: scores of 64 tokens, twice."""


def _large_vocabulary(folder: Path) -> Stage:
    model = folder / "random.gguf"
    write_random(_SHAPE, "F16", model)
    settings = merged(
        board_settings(folder), {"model": {"path": str(model), "context_tokens": 2048}}
    )
    return Stage({"board-a": AgentSpec("device", settings)}, "board-a", question="embeddings")


async def _embed(site: Site) -> Outcome:
    """As long a text as can be embedded; the memory must be what the estimate says."""
    model = ModelSettings(**site.stage.agents["board-a"].settings["model"])
    counted_mib = memory_need(model).total / MEBIBYTE
    async with site.inference("board-a") as stub:
        texts = [" ".join(["ab"] * 600)]
        outcome = await outcome_of(stub.Embed(inference_pb2.EmbedRequest(texts=texts)))
    taken_mib = site.agents["board-a"].peak_resident_bytes / MEBIBYTE
    said = f"{outcome.said}; {taken_mib:.0f} MiB taken, {counted_mib:.0f} counted"
    wrong = outcome.wrong or (said if taken_mib > _ESTIMATED * counted_mib else "")
    return Outcome(said, wrong)


ATTACKS = (
    Attack("model/encoder", "a completion asked of a model that only embeds", _encoder, _complete),
    Attack("model/adapter-sets", "400 different sets of adapters", _adapters, _sets, pause_s=1.0),
    Attack("model/embeddings", f"embeddings of a vocabulary of {_SHAPE.vocabulary:,}",
           _large_vocabulary, _embed, repeated=False, growth_mib=_COUNTED_MIB),
)  # fmt: skip
