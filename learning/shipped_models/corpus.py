"""Batches of training examples, drawn in chunks from a seed and the chunk's number alone.

So a resumed training sees exactly the batches that an uninterrupted one would have seen.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from collaboration.questions.examples import Example, draw
from collaboration.questions.question import TRAINING_LEVELS
from collaboration.questions.sampling import sample
from learning.shipped_models.recipes import Recipe, Shares
from learning.shipped_models.vocabulary import (
    BOS,
    EOS,
    CharacterVocabulary,
    SubwordVocabulary,
    Vocabulary,
)

IGNORED = -100
"""Target of a position that carries no loss (the prompt and the padding)."""

_EXAMPLES_PER_CHUNK = 2048
PROMPT_TEMPLATE = "Q: {}\nA: "


@dataclass(frozen=True)
class Batch:
    """Inputs and targets, each (batch, length); `tokens` counts inputs that are not padding."""

    inputs: Tensor
    targets: Tensor
    tokens: int


def draw_example(rng: random.Random, recipe: Recipe, shares: Shares) -> Example:
    """Draw one example of the recipe's mix; only training questions are ever drawn."""
    (domain,) = rng.choices(list(shares), weights=list(shares.values()))
    (level,) = rng.choices(TRAINING_LEVELS, weights=recipe.level_weights)
    question = sample(rng, domain, level, "train")
    return draw(rng, question, expert=domain in recipe.experts)


def vocabulary_for(recipe: Recipe) -> Vocabulary:
    """Make the recipe's vocabulary (a subword one is trained on the recipe's own examples)."""
    if recipe.vocabulary == "characters":
        return CharacterVocabulary()
    rng = random.Random(recipe.seed)
    examples = [draw_example(rng, recipe, recipe.cycles[0].shares) for _ in range(40_000)]
    texts = [line for e in examples for line in (*e.prompt.split("\n"), e.completion)]
    return SubwordVocabulary.train(texts, recipe.subword_count)


def _encode(example: Example, vocabulary: Vocabulary) -> tuple[list[int], int]:
    prompt = [BOS, *vocabulary.encode(PROMPT_TEMPLATE.format(example.prompt))]
    return [*prompt, *vocabulary.encode(example.completion), EOS], len(prompt)


def _collate(rows: list[tuple[list[int], int]]) -> Batch:
    length = max(len(ids) for ids, _ in rows) - 1
    inputs = torch.zeros(len(rows), length, dtype=torch.long)
    targets = torch.full((len(rows), length), IGNORED, dtype=torch.long)
    for i, (ids, prompt_length) in enumerate(rows):
        inputs[i, : len(ids) - 1] = torch.tensor(ids[:-1])
        targets[i, prompt_length - 1 : len(ids) - 1] = torch.tensor(ids[prompt_length:])
    return Batch(inputs, targets, sum(len(ids) - 1 for ids, _ in rows))


def draw_chunk(recipe: Recipe, shares: Shares, vocabulary: Vocabulary, number: int) -> list[Batch]:
    """Draw one chunk of batches; rows of one batch have like lengths, so little is padding."""
    rng = random.Random(f"{recipe.name}-{recipe.seed}-{number}")
    examples = (draw_example(rng, recipe, shares) for _ in range(_EXAMPLES_PER_CHUNK))
    rows = [_encode(example, vocabulary) for example in examples]
    rows = [row for row in rows if len(row[0]) <= recipe.shape.context]
    rows.sort(key=lambda row: len(row[0]))
    cut: list[Batch] = []
    start = 0
    while start < len(rows):
        end = start + 1
        while end < len(rows) and len(rows[end][0]) * (end + 1 - start) <= recipe.batch_tokens:
            end += 1
        cut.append(_collate(rows[start:end]))
        start = end
    rng.shuffle(cut)
    return cut
