"""The laws of a shaped direction, on a clock of the test's own."""

import dataclasses
import statistics
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netctl.backends.userspace_link.forwarder import flip_bit
from netctl.backends.userspace_link.shaper import Counters, DirectionShaper
from netctl.conditions.jitter import Distribution
from netctl.conditions.link import FRAME_HEADER_BYTES, DirectionConditions, Slots

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


def shares(asked: DirectionConditions, packets: int = 20_000, gap_s: float = 0.0001) -> Counters:
    _, shaper = play(asked, [(gap_s, 100)] * packets, seed=5)
    return shaper.counters


def test_copies_corruption_and_overtaking_happen_as_often_as_asked() -> None:
    counted = shares(DirectionConditions(delay_ms=5, duplicate=0.05, corrupt=0.02, reorder=0.1))
    assert counted.duplicated / 20_000 == pytest.approx(0.05, abs=0.005)
    assert counted.reordered / 21_000 == pytest.approx(0.1, abs=0.01)
    assert counted.delivered == 20_000 + counted.duplicated


def test_a_corrupted_packet_differs_in_one_bit() -> None:
    flip = flip_bit(header_bytes=14)
    packet = bytes(range(100))
    for fraction in (0.0, 0.5, 0.999999):
        changed = flip(packet, fraction)
        wrong = [one ^ other for one, other in zip(packet, changed, strict=True)]
        assert sum(value.bit_count() for value in wrong) == 1
        assert wrong[:14] == [0] * 14


def test_jitter_that_may_reorder_does() -> None:
    asked = DirectionConditions(delay_ms=20, jitter_ms=10, in_order=False)
    arrivals, _ = play(asked, [(0.001, 100)] * 500, seed=5)
    indices = [index for index, _, _ in arrivals]
    assert indices != sorted(indices)
    assert sorted(indices) == list(range(500))


@pytest.mark.parametrize("distribution", ["uniform", "normal", "pareto"])
@pytest.mark.parametrize("correlation", [0.0, 0.7])
def test_delays_have_their_distribution_however_correlated(
    distribution: Distribution, correlation: float
) -> None:
    asked = DirectionConditions(
        delay_ms=100, jitter_ms=5, distribution=distribution, jitter_correlation=correlation
    )
    # So far apart that no packet waits for the one ahead.
    arrivals, _ = play(asked, [(0.2, 100)] * 20_000, seed=5)
    delays_ms = [(received - sent) * 1e3 for _, sent, received in arrivals]
    assert statistics.fmean(delays_ms) == pytest.approx(asked.mean_delay_ms, abs=0.3)
    assert statistics.pstdev(delays_ms) == pytest.approx(asked.deviation_ms, rel=0.06)
    lagged = statistics.correlation(delays_ms[:-1], delays_ms[1:])
    assert lagged == pytest.approx(correlation, abs=0.15 if distribution == "pareto" else 0.05)


def test_slots_let_only_so_many_packets_out_at_a_time() -> None:
    asked = DirectionConditions(delay_ms=1, slots=Slots(5, 5, packets=3))
    arrivals, _ = play(asked, [(0.001, 100)] * 300, seed=5)
    batches = Counter(round(received, 6) for _, _, received in arrivals)
    assert max(batches.values()) == 3


def test_codel_keeps_the_queue_short_where_drop_tail_fills_it() -> None:
    def last_delay_ms(asked: DirectionConditions) -> float:
        arrivals, _ = play(asked, [(0.0011, 1500)] * 8000, seed=5)
        return statistics.fmean((received - sent) * 1e3 for _, sent, received in arrivals[-200:])

    full = DirectionConditions(rate_bps=10_000_000, queue_ms=300)
    managed = dataclasses.replace(full, queue_discipline="codel")
    assert last_delay_ms(full) > 250
    assert last_delay_ms(managed) < 60


def test_nothing_comes_through_a_link_that_is_down() -> None:
    assert shares(DirectionConditions(up=False)).delivered == 0


def test_new_conditions_hold_for_what_comes_after_them() -> None:
    shaper: DirectionShaper[int] = DirectionShaper(DirectionConditions(delay_ms=10), 1)
    shaper.offer(1, 100, 0.0)
    shaper.use(DirectionConditions(delay_ms=50), 0.0005)
    shaper.offer(2, 100, 0.001)
    assert shaper.take_due(0.0101) == [1]
    assert shaper.next_due_s() == pytest.approx(0.051)


def drained(shaper: DirectionShaper[int]) -> list[tuple[float, int]]:
    """When each packet that is held leaves, and which."""
    left = []
    while (due_s := shaper.next_due_s()) is not None:
        left += [(due_s, packet) for packet in shaper.take_due(due_s)]
    return left


@pytest.mark.parametrize(("before_bps", "after_bps"), [(8e6, 4e5), (4e5, 8e6)])
def test_a_full_queue_empties_at_the_rate_that_holds_then(
    before_bps: float, after_bps: float
) -> None:
    # As HTB does: 130 frames of 1514 bytes take 0.2 s at 8 Mbit/s, and 3.9 s at 0.4 Mbit/s.
    asked = DirectionConditions(rate_bps=round(before_bps), queue_bytes=1 << 20)
    shaper: DirectionShaper[int] = DirectionShaper(asked, 1)
    for number in range(131):
        shaper.offer(number, 1500, 0.0)
    sending_s = (1500 + FRAME_HEADER_BYTES) * 8 / before_bps
    shaper.use(dataclasses.replace(asked, rate_bps=round(after_bps)), 0.5 * sending_s)
    left = drained(shaper)
    assert [number for _, number in left] == list(range(131))
    # What is on its way already goes on as it began.
    assert left[0][0] == pytest.approx(sending_s)
    frame_s = (1500 + FRAME_HEADER_BYTES) * 8 / after_bps
    assert left[-1][0] == pytest.approx(sending_s + 130 * frame_s)


rates = st.integers(10_000, 100_000_000)


@given(
    st.lists(st.tuples(st.floats(0, 0.05), rates, st.integers(28, 1500)), min_size=1, max_size=60),
    rates,
)
def test_changes_of_rate_lose_and_reorder_nothing_and_send_no_faster_than_any_of_them(
    steps: list[tuple[float, int, int]], first_bps: int
) -> None:
    asked = DirectionConditions(rate_bps=first_bps, queue_bytes=1 << 30)
    shaper: DirectionShaper[int] = DirectionShaper(asked, 1)
    now_s, left = 0.0, []
    for number, (gap_s, rate_bps, size) in enumerate(steps):
        now_s += gap_s
        while (due_s := shaper.next_due_s()) is not None and due_s <= now_s:
            left += [(due_s, packet) for packet in shaper.take_due(due_s)]
        shaper.use(dataclasses.replace(asked, rate_bps=rate_bps), now_s)
        shaper.offer(number, size, now_s)
    left += drained(shaper)
    assert [packet for _, packet in left] == list(range(len(steps)))
    bits = sum((size + FRAME_HEADER_BYTES) * 8 for _, _, size in steps)
    assert left[-1][0] >= bits / max(first_bps, *(rate for _, rate, _ in steps)) - 1e-9


@pytest.mark.parametrize("size", [64, 500, 1500])
@pytest.mark.parametrize("discipline", ["drop-tail", "codel"])
def test_a_lonely_packet_waits_for_its_own_transmission(size: int, discipline: str) -> None:
    asked = DirectionConditions(
        rate_bps=400_000,
        delay_ms=20,
        queue_bytes=1 << 20,
        queue_discipline=discipline,  # type: ignore[arg-type]
    )
    arrivals, _ = play(asked, [(1.0, size)] * 20, seed=1)
    for _, sent, received in arrivals:
        assert (received - sent) * 1e3 == pytest.approx(20 + asked.transmission_ms(size))


def test_a_queue_in_bytes_holds_as_many_small_packets_as_fit() -> None:
    # At 70 % load small packets are not lost, however many more of them there are than large ones.
    asked = DirectionConditions(rate_bps=1_000_000, queue_ms=100)
    gap_s = (128 + FRAME_HEADER_BYTES) * 8 / 1_000_000 / 0.7
    arrivals, shaper = play(asked, [(0.0 if n % 50 else 50 * gap_s, 128) for n in range(5000)], 1)
    assert shaper.counters.overflowed == 0
    assert len(arrivals) == 5000


def test_codel_leaves_a_queue_of_one_packet_alone_however_slow_the_link_is() -> None:
    # At 100 kbit/s a frame takes 121 ms, more than CoDel's target and interval: RFC 8289's rule for
    # small queues keeps it from dropping every second packet.
    asked = DirectionConditions(rate_bps=100_000, queue_bytes=1 << 20, queue_discipline="codel")
    sending_s = (1500 + FRAME_HEADER_BYTES) * 8 / 100_000
    arrivals, _ = play(asked, [(0.0, 1500)] * 2 + [(sending_s, 1500)] * 60, seed=1)
    assert len(arrivals) == 62


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
