"""Delay tables: what a name means, and tables of measured delays."""

import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netctl.conditions.jitter import TABLE_SCALE, DelayTable, moments, table, table_steps


def test_named_tables_have_the_moments_of_iproute2s() -> None:
    assert moments("uniform") == (0.0, pytest.approx(3**-0.5))
    mean, deviation = moments("normal")
    assert (mean, deviation) == (pytest.approx(0, abs=1e-3), pytest.approx(1, abs=0.01))
    for skewed in ("pareto", "paretonormal"):
        steps = table(skewed)  # type: ignore[arg-type]
        assert steps is not None
        assert statistics.median(steps) < statistics.fmean(steps)
        assert max(steps) <= 32767


@given(st.lists(st.floats(0.1, 1000), min_size=10, max_size=400))
def test_a_table_of_samples_has_their_mean_and_deviation(samples: list[float]) -> None:
    mean, deviation, made = DelayTable.from_samples(samples)
    assert mean == pytest.approx(statistics.fmean(samples))
    steps = table_steps(made)
    back = [mean + deviation * step / TABLE_SCALE for step in steps]
    assert statistics.fmean(back) == pytest.approx(mean, rel=0.05, abs=1e-6)


def test_a_table_follows_the_shape_of_its_samples() -> None:
    draw = random.Random(3)
    samples = [draw.lognormvariate(3, 0.5) for _ in range(5000)]
    mean, deviation, made = DelayTable.from_samples(samples)
    steps = table_steps(made)
    back = sorted(mean + deviation * step / TABLE_SCALE for step in steps)
    for share in (0.05, 0.5, 0.95):
        wanted = sorted(samples)[int(share * len(samples))]
        assert back[int(share * len(back))] == pytest.approx(wanted, rel=0.03)


@pytest.mark.parametrize(
    ("quantiles", "says"), [((), "at least one"), ((float("nan"),), "finite"), ((9.0,), "at most")]
)
def test_impossible_tables_are_refused(quantiles: tuple[float, ...], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        DelayTable(quantiles)
