"""Long runs of one class of characters, which a pre-tokenizer's regular expression recurses over."""

from __future__ import annotations

from functools import partial
from pathlib import Path

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
from benchmarks.attacks.stages import board_settings, merged
from benchmarks.qwen_shape import QwenShape, write_random
from protos.airloom.v1 import inference_pb2

_PRE_TOKENIZERS = ("tekken", "deepseek-llm", "deepseek-v3", "gpt-4o", "falcon")
_LENGTH = 32_000
_CLASSES = {"letters": "a", "capitals": "A", "digits": "7", "spaces": " ", "lines": "\n", "marks": "!",
            "ideographs": "中", "accents": "\u0301"}  # fmt: skip


def _board(pre_tokenizer: str, folder: Path) -> Stage:
    model = folder / "random.gguf"
    shape = QwenShape(
        layers=1, width=64, heads=2, key_value_heads=2, feed_forward=96, vocabulary=1024,
        context=1024, pre_tokenizer=pre_tokenizer,
    )  # fmt: skip
    write_random(shape, "F16", model)
    settings = merged(board_settings(folder), {"model": {"path": str(model)}})
    # Random weights have no opinion: whom a batch is shared with may change what they say.
    return Stage({"board-a": AgentSpec("device", settings)}, "board-a", question="embeddings")


async def _send(site: Site) -> Outcome:
    outcomes = []
    async with site.inference("board-a") as stub:
        for character in _CLASSES.values():
            text = character * _LENGTH
            for call in (
                stub.Tokenize(inference_pb2.TokenizeRequest(text=text)),
                stub.Infer(infer_request(task(text + "?"))),
                stub.Embed(inference_pb2.EmbedRequest(texts=[text])),
            ):
                outcomes.append(await outcome_of(call))
                if outcomes[-1].wrong:
                    return together(*outcomes)
    return together(*outcomes)


ATTACKS = tuple(
    Attack(
        f"pre-tokenizer/{name}",
        f"{_LENGTH:,} characters of each of {', '.join(_CLASSES)}",
        partial(_board, name),
        _send,
        limit_s=60,
    )
    for name in _PRE_TOKENIZERS
)
