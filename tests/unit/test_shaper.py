"""The laws of a shaped direction, on a clock of the test's own."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netctl.conditions import FRAME_HEADER_BYTES, DirectionConditions
from netctl.userspace.shaper import DirectionShaper

conditions = st.builds(
    lambda rate, delay, jitter, loss: DirectionConditions(rate, delay, delay * jitter, loss),
    st.one_of(st.none(), st.integers(10_000, 1_000_000_000)),
    st.floats(0, 500),
    st.floats(0, 1),
    st.floats(0, 1),
)
packets = st.lists(st.tuples(st.floats(0, 0.05), st.integers(28, 1500)), max_size=200)


def play(
    asked: DirectionConditions, sizes: list[tuple[float, int]], seed: int
) -> tuple[list[tuple[int, float, float]], DirectionShaper[int]]:
    """Offer packets after gaps; return (index, offered at, delivered at) of those that arrive."""
    shaper: DirectionShaper[int] = DirectionShaper(asked, seed)
    now, offered_at, arrivals = 0.0, {}, []

    def drain(until: float) -> None:
        while (due := shaper.next_due_s()) is not None and due <= until:
            arrivals.extend((index, offered_at[index], due) for index in shaper.take_due(due))

    for index, (gap, size) in enumerate(sizes):
        now += gap
        drain(now)
        offered_at[index] = now
        shaper.offer(index, size, now)
    drain(float("inf"))
    return arrivals, shaper


@given(conditions, packets, st.integers(0, 9))
@settings(max_examples=200)
def test_nothing_is_reordered_or_early_or_unaccounted(
    asked: DirectionConditions, sizes: list[tuple[float, int]], seed: int
) -> None:
    arrivals, shaper = play(asked, sizes, seed)
    indices = [index for index, _, _ in arrivals]
    assert indices == sorted(indices)
    for index, sent, received in arrivals:
        earliest_ms = asked.delay_ms - asked.jitter_ms + asked.transmission_ms(sizes[index][1])
        assert (received - sent) * 1e3 >= earliest_ms - 1e-6
    c = shaper.counters
    assert c.offered == len(sizes) == c.lost + c.overflowed + c.delivered
    assert c.delivered_bytes == sum(sizes[index][1] for index in indices)


@given(conditions, packets, st.integers(0, 9))
def test_the_same_seed_gives_every_packet_the_same_fate(
    asked: DirectionConditions, sizes: list[tuple[float, int]], seed: int
) -> None:
    assert play(asked, sizes, seed)[0] == play(asked, sizes, seed)[0]


def test_a_saturated_direction_delivers_exactly_its_rate() -> None:
    asked = DirectionConditions(rate_bps=8_000_000, delay_ms=5, queue_ms=50)
    arrivals, _ = play(asked, [(0.0005, 1500)] * 4000, seed=1)
    (_, _, first), (_, _, last) = arrivals[0], arrivals[-1]
    bits = (len(arrivals) - 1) * (1500 + FRAME_HEADER_BYTES) * 8
    assert bits / (last - first) == pytest.approx(8_000_000, rel=1e-6)


def test_a_queue_holds_what_it_was_asked_to_and_drops_the_rest() -> None:
    asked = DirectionConditions(rate_bps=1_000_000, queue_ms=100)
    arrivals, shaper = play(asked, [(0.0, 1500)] * 100, seed=1)
    assert len(arrivals) == asked.limit_packets == shaper.counters.delivered
    longest_s = max(received - sent for _, sent, received in arrivals)
    assert 0.1 <= longest_s < 0.125


def test_loss_is_what_was_asked_within_four_standard_errors() -> None:
    asked = DirectionConditions(loss=0.03)
    arrivals, _ = play(asked, [(0.0001, 100)] * 50_000, seed=3)
    lost = 1 - len(arrivals) / 50_000
    assert abs(lost - 0.03) < 4 * (0.03 * 0.97 / 50_000) ** 0.5


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"rate_bps": 0}, "above zero"),
        ({"delay_ms": -1.0}, "zero or more"),
        ({"delay_ms": 5.0, "jitter_ms": 6.0}, "before it was sent"),
        ({"loss": 1.5}, "from 0 to 1"),
    ],
)
def test_impossible_conditions_are_refused(wrong: dict[str, float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        DirectionConditions(**wrong)  # type: ignore[arg-type]
