"""Scores of a token under the distribution that it was drawn from."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from collaboration.confidence import TokenScore, score_tokens
from device_agent.engine.requests import Sampling
from device_agent.engine.sampling import choose


def score_token(logits: np.ndarray, token: int) -> TokenScore:
    (score,), _ = score_tokens(logits[None], np.array([token]))
    return score


LOGITS = hnp.arrays(np.float32, st.integers(2, 50), elements=st.floats(-30, 30, width=32))


@given(LOGITS, st.data())
def test_scores_agree_with_softmax_in_double_precision(
    logits: np.ndarray, data: st.DataObject
) -> None:
    token = data.draw(st.integers(0, len(logits) - 1))
    exact = logits.astype(np.float64) - logits.max()
    p = np.exp(exact) / np.exp(exact).sum()
    score = score_token(logits, token)
    assert score.logprob == pytest.approx(math.log(p[token]), abs=1e-4)
    assert score.margin == pytest.approx(p[token] - np.delete(p, token).max(), abs=1e-5)
    assert score.entropy == pytest.approx(-(p * np.log(p)).sum(), abs=1e-3)


def test_a_banned_token_costs_nothing() -> None:
    score = score_token(np.array([1.0, -np.inf, 1.0], dtype=np.float32), 0)
    assert score.entropy == pytest.approx(math.log(2), abs=1e-5)
    assert score.margin == pytest.approx(0.0, abs=1e-6)


def draws(logits: np.ndarray, sampling: Sampling, count: int = 20_000) -> np.ndarray:
    """How often each token is drawn."""
    uniforms = np.random.default_rng(4).random(count)
    drawn = [choose(logits, sampling, uniform) for uniform in uniforms]
    return np.bincount(drawn, minlength=len(logits)) / count


FIVE = np.log(np.array([0.05, 0.4, 0.3, 0.05, 0.2], dtype=np.float32))


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(temperature=1.0), [0.05, 0.4, 0.3, 0.05, 0.2]),
        (Sampling(temperature=0.01), [0, 1, 0, 0, 0]),
        (Sampling(temperature=1.0, top_k=2), [0, 4 / 7, 3 / 7, 0, 0]),
        (Sampling(temperature=1.0, top_p=0.6), [0, 4 / 7, 3 / 7, 0, 0]),
        (Sampling(temperature=1.0, min_p=0.45), [0, 4 / 9, 3 / 9, 0, 2 / 9]),
    ],
)
def test_sampling_follows_the_distribution_that_is_left(
    sampling: Sampling, expected: list[float]
) -> None:
    np.testing.assert_allclose(draws(FIVE, sampling), expected, atol=0.02)


@given(LOGITS, st.floats(0, 0.999), st.integers(0, 5), st.floats(0.1, 1), st.floats(0, 1))
def test_what_is_drawn_was_among_what_the_cuts_leave(
    logits: np.ndarray, uniform: float, top_k: int, top_p: float, min_p: float
) -> None:
    token = choose(logits, Sampling(1.0, top_k, top_p, min_p), uniform)
    probabilities = np.exp(logits.astype(np.float64) - logits.max())
    likelier = int((probabilities > probabilities[token]).sum())
    assert not top_k or likelier < top_k
    assert probabilities[token] >= min_p * (1 - 1e-5)
