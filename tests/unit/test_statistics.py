import pytest
from hypothesis import given
from hypothesis import strategies as st

from netctl.measure.statistics import mean_interval, median_interval, wilson


def test_wilson_agrees_with_a_published_example() -> None:
    # Newcombe 1998, table I: 81 of 263 gives 0.2553 to 0.3662.
    estimate = wilson(81, 263)
    assert estimate.low == pytest.approx(0.2553, abs=5e-5)
    assert estimate.high == pytest.approx(0.3662, abs=5e-5)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_an_interval_holds_its_estimate_and_stays_a_probability(counts: tuple[int, int]) -> None:
    estimate = wilson(*counts)
    assert 0 <= estimate.low <= estimate.value + 1e-12
    assert estimate.value - 1e-12 <= estimate.high <= 1


@given(st.lists(st.floats(-1e6, 1e6), min_size=6, max_size=300))
def test_a_median_lies_in_its_interval(samples: list[float]) -> None:
    estimate = median_interval(samples)
    assert min(samples) <= estimate.low <= estimate.value <= estimate.high <= max(samples)


def test_a_mean_of_equal_samples_is_certain() -> None:
    estimate = mean_interval([2.0, 2.0, 2.0])
    assert (estimate.low, estimate.value, estimate.high) == (2.0, 2.0, 2.0)
