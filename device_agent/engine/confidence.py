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


def score_token(logits: NDArray[np.float32], token: int) -> TokenScore:
    """Score the chosen token under softmax(logits)."""
    shifted = logits.astype(np.float64) - logits.max()
    logprobs = shifted - math.log(np.exp(shifted).sum())
    probabilities = np.exp(logprobs)
    chosen = probabilities[token]
    first, second = np.partition(probabilities, -2)[[-1, -2]]
    rival = second if chosen == first else first
    return TokenScore(
        logprob=float(logprobs[token]),
        margin=float(chosen - rival),
        entropy=float(-(probabilities * logprobs).sum()),
    )


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
