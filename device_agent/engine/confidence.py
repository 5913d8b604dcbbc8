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


def score_token(logits: NDArray[np.float32], token: int) -> TokenScore:
    """Score the chosen token under softmax(logits); a few passes, for it runs at every token."""
    shifted = np.maximum(logits - logits.max(), _LEAST_LOGIT)
    weights = np.exp(shifted)
    total = float(weights.sum(dtype=np.float64))
    entropy = math.log(total) - float(np.dot(weights, shifted)) / total
    logprob = float(shifted[token]) - math.log(total)
    chosen = float(weights[token])
    weights[token] = 0.0
    return TokenScore(
        logprob=logprob,
        margin=(chosen - float(weights.max())) / total,
        entropy=max(0.0, entropy),
    )


def sample_token(logits: NDArray[np.float32], temperature: float, rng: np.random.Generator) -> int:
    """Draw from softmax(logits / temperature) by inverting its cumulative distribution."""
    weights = np.exp((logits - logits.max()) / np.float32(temperature))
    cumulative = np.cumsum(weights, dtype=np.float64)
    return int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))


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
