"""Training can be killed at any moment and goes on as if nothing had happened."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from learning.shipped_models.network import Shape
from learning.shipped_models.recipes import RECIPES, Cycle
from learning.shipped_models.train import learning_rate, train

SHARES = RECIPES["airloom-symbolic"].cycles[0].shares
TINY = replace(
    RECIPES["airloom-symbolic"],
    name="tiny",
    shape=Shape(layers=1, width=32, feed_forward=32),
    cycles=(Cycle(300_000, SHARES),),
)


class PowerCutError(Exception):
    pass


def test_an_interrupted_training_ends_at_the_same_weights(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    lines: list[str] = []
    whole, _ = train(TINY, tmp_path / "whole", lines.append, checkpoint_interval_s=0)
    assert len(lines) >= 3, "a start and two chunks, or there is nothing to interrupt"

    def cut_power(line: str) -> None:
        if "loss" in line:
            raise PowerCutError

    with pytest.raises(PowerCutError):
        train(TINY, tmp_path / "cut", cut_power, checkpoint_interval_s=0)
    told: list[str] = []
    resumed, _ = train(TINY, tmp_path / "cut", told.append, checkpoint_interval_s=0)
    assert len(told) == len(lines) - 1
    assert " 0/" not in told[0]
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)

    again: list[str] = []
    train(TINY, tmp_path / "cut", again.append)
    assert len(again) == 1, "what is trained is not trained again"


def test_a_changed_recipe_starts_over(tmp_path: Path) -> None:
    told: list[str] = []
    short = replace(TINY, cycles=(Cycle(1, SHARES),))
    train(short, tmp_path, told.append)
    told.clear()
    train(replace(short, seed=99), tmp_path, told.append)
    assert any("the recipe changed" in line for line in told)


@pytest.mark.parametrize("cycles", [(300_000,), (200_000, 300_000)])
def test_the_learning_rate_rises_then_falls_in_each_cycle(cycles: tuple[int, ...]) -> None:
    recipe = replace(TINY, cycles=tuple(Cycle(tokens, SHARES) for tokens in cycles))
    start = 0
    for cycle in cycles:
        rates = [learning_rate(recipe, tokens) for tokens in range(start, start + cycle, 1000)]
        peak = rates.index(max(rates))
        assert max(rates) == pytest.approx(TINY.peak_learning_rate, rel=0.05)
        assert rates[:peak] == sorted(rates[:peak])
        assert rates[peak:] == sorted(rates[peak:], reverse=True)
        assert rates[-1] < 0.03 * TINY.peak_learning_rate
        start += cycle
    assert learning_rate(recipe, start) == pytest.approx(0.02 * TINY.peak_learning_rate)
