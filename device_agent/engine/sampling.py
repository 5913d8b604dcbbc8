"""Choosing the next token from its logits."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from device_agent.engine.requests import Sampling

_COLDEST = 1e-6
"""Lower temperatures cannot be told from this one in single precision."""

_NEGLIGIBLE = np.float32(-20.0)
"""exp of this is some 2e-9: beyond it a tail can only matter where it is the whole nucleus."""


def adjust(
    logits: NDArray[np.float32], sampling: Sampling, counts: Mapping[int, int]
) -> NDArray[np.float32]:
    """Apply biases and penalties; `counts` says how often each token was generated."""
    if sampling.plain:
        return logits
    adjusted: NDArray[np.float32] = logits.copy()
    for token, bias in sampling.logit_bias.items():
        adjusted[token] += bias
    for token, count in counts.items():
        adjusted[token] -= sampling.frequency_penalty * count + sampling.presence_penalty
    return adjusted


def choose(logits: NDArray[np.float32], sampling: Sampling, uniform: float) -> int:
    """Choose a token: the likeliest, or by inverting the cut distribution at `uniform` in [0, 1)."""
    if sampling.temperature <= 0:
        return int(logits.argmax())
    temperature = np.float32(max(sampling.temperature, _COLDEST))
    scaled = (logits - logits.max()) / temperature
    if sampling.top_k > 0 or sampling.top_p < 1 or sampling.min_p > 0:
        tokens = _kept(scaled, sampling)
        return int(tokens[_invert(np.exp(scaled[tokens]), uniform)])
    return _invert(np.exp(scaled), uniform)


def _invert(weights: NDArray[np.float32], uniform: float) -> int:
    cumulative = np.cumsum(weights, dtype=np.float64)
    at = int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))
    return min(at, len(weights) - 1)


def _kept(scaled: NDArray[np.float32], sampling: Sampling) -> NDArray[np.intp]:
    """The tokens that top-k, top-p and min-p leave, likeliest first; ties by token id."""
    tokens = np.flatnonzero(scaled > _NEGLIGIBLE)
    if 0 < sampling.top_k < len(tokens):
        kth = np.partition(scaled[tokens], -sampling.top_k)[-sampling.top_k]
        tokens = tokens[scaled[tokens] >= kth]
    tokens = tokens[np.argsort(-scaled[tokens], kind="stable")]
    if sampling.top_k > 0:
        tokens = tokens[: sampling.top_k]
    weights = np.exp(scaled[tokens], dtype=np.float64)
    if sampling.top_p < 1:
        cumulative = np.cumsum(weights)
        before = cumulative - weights
        tokens = tokens[before < sampling.top_p * cumulative[-1]]
    if sampling.min_p > 0:
        tokens = tokens[weights[: len(tokens)] >= sampling.min_p]
    return tokens[: max(1, len(tokens))]
