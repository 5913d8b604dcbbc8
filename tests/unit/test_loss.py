"""Loss models lose what they promise, in bursts as long as they promise."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netctl.conditions.loss import FourState, GilbertElliott, LossModel

chances = st.floats(0.01, 1)


def simulated(model: LossModel, packets: int = 60_000) -> tuple[float, float]:
    """Share lost and mean burst length of a long run."""
    lost = list(itertools.islice(model.lost(random.Random(7).random), packets))
    bursts = [len(list(run)) for value, run in itertools.groupby(lost) if value]
    return sum(lost) / packets, sum(bursts) / len(bursts) if bursts else 0.0


@given(st.floats(0.001, 0.6), st.floats(1, 30))
def test_bursts_have_the_mean_loss_and_length_that_were_asked(loss: float, burst: float) -> None:
    if loss / (burst * (1 - loss)) > 1:
        with pytest.raises(ValueError, match="packets at least"):
            GilbertElliott.bursts(loss, burst)
        return
    model = GilbertElliott.bursts(loss, burst)
    assert model.mean == pytest.approx(loss)
    assert model.mean_burst_packets == pytest.approx(burst)


@given(chances, chances, st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=25, deadline=None)
def test_gilbert_elliott_simulated_is_as_computed(
    p: float, r: float, bad: float, good: float
) -> None:
    # Changing states seldom, a run would have to be very long to tell.
    model = GilbertElliott(max(p, 0.05), max(r, 0.05), bad, min(good, 0.9))
    loss, burst = simulated(model)
    assert loss == pytest.approx(model.mean, abs=0.03)
    if model.mean > 0.02 and model.mean_burst_packets < 50:
        assert burst == pytest.approx(model.mean_burst_packets, rel=0.15)


@given(chances, chances, chances, chances, st.floats(0, 0.5))
@settings(max_examples=25, deadline=None)
def test_four_states_simulated_are_as_computed(
    p13: float, p31: float, p32: float, p23: float, p14: float
) -> None:
    scale = max(1.0, p31 + p32)
    model = FourState(min(p13, 1 - p14), max(0.05, p31 / scale), p32 / scale * 0.9, p23, p14)
    if model.p31 + model.p32 > 1:
        return
    loss, burst = simulated(model)
    assert loss == pytest.approx(model.mean, abs=0.03)
    assert burst == pytest.approx(model.mean_burst_packets, rel=0.15)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: GilbertElliott(1.5, 0.1), "p must be from 0 to 1"),
        (lambda: GilbertElliott(0, 0), "never change"),
        (lambda: GilbertElliott.bursts(0.1, 0.5), "at least 1 packet"),
        (lambda: FourState(0.1, 0.0), "never end"),
        (lambda: FourState(0.6, 0.1, p14=0.6), "must not exceed 1"),
    ],
)
def test_impossible_models_are_refused(make: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()  # type: ignore[operator]
