"""How sure a model was of what it wrote, from the log-probabilities of its tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Confidence:
    """Measures over one completion; all natural logarithms."""

    sequence_probability: float
    """Product of the tokens' probabilities: the model's own chance of exactly this completion."""
    mean_logprob: float
    """Mean log-probability of a token (length-normalised)."""
    min_margin: float
    """Smallest difference in probability between a token and its best rival."""
    mean_entropy: float
    """Mean entropy of the next-token distribution, in nats."""


@dataclass(frozen=True, slots=True)
class TokenScore:
    """What is kept of one step's distribution."""

    logprob: float
    margin: float
    entropy: float


_LEAST_LOGIT = np.float32(-80.0)
"""Below the largest one by more than this, a logit's probability is zero in single precision."""

_BLOCK = 1 << 16
"""Logits scored together: few enough to stay in a small processor's cache."""


def score_tokens(
    logits: NDArray[np.float32], tokens: NDArray[np.int64]
) -> tuple[list[TokenScore], NDArray[np.float64]]:
    """Score the chosen tokens (rows,) under softmax of the logits (rows, vocabulary).

    Returns the scores, and for each row the logarithm of the sum of its exponentials.
    """
    scores: list[TokenScore] = []
    normalisers = np.empty(len(tokens))
    step = max(1, _BLOCK // logits.shape[1])
    for start in range(0, len(tokens), step):
        block = logits[start : start + step]
        chosen = tokens[start : start + step]
        rows = np.arange(len(chosen))
        largest = block.max(axis=1, keepdims=True)
        shifted = np.maximum(block - largest, _LEAST_LOGIT)
        weights = np.exp(shifted)
        totals = weights.sum(axis=1, dtype=np.float64)
        log_totals = np.log(totals)
        entropies = log_totals - np.einsum("ij,ij->i", weights, shifted) / totals
        logprobs = shifted[rows, chosen] - log_totals
        own = weights[rows, chosen]
        weights[rows, chosen] = 0.0
        margins = (own - weights.max(axis=1)) / totals
        normalisers[start : start + step] = log_totals + largest[:, 0]
        scores += [
            TokenScore(logprob, margin, max(0.0, entropy))
            for logprob, margin, entropy in zip(
                logprobs.tolist(), margins.tolist(), entropies.tolist(), strict=True
            )
        ]
    return scores, normalisers


def summarise(scores: Sequence[TokenScore]) -> Confidence:
    """Summarise a completion's token scores; an empty completion has no confidence at all."""
    if not scores:
        return Confidence(0.0, -math.inf, 0.0, 0.0)
    total = math.fsum(score.logprob for score in scores)
    return Confidence(
        sequence_probability=math.exp(total),
        mean_logprob=total / len(scores),
        min_margin=min(score.margin for score in scores),
        mean_entropy=math.fsum(score.entropy for score in scores) / len(scores),
    )
