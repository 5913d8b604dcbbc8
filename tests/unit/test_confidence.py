"""Scores of a token under the distribution that it was drawn from."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from device_agent.engine.confidence import sample_token, score_token

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


def test_sampling_follows_the_distribution() -> None:
    logits, rng = np.log(np.array([0.5, 0.3, 0.2], dtype=np.float32)), np.random.default_rng(4)
    drawn = np.bincount([sample_token(logits, 1.0, rng) for _ in range(20_000)], minlength=3)
    np.testing.assert_allclose(drawn / 20_000, [0.5, 0.3, 0.2], atol=0.02)
    cold = {sample_token(logits, 0.01, rng) for _ in range(100)}
    assert cold == {0}
