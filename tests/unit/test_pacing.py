"""The closed loop of a replay against a meter that charges packets when they leave, as HTB does."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netctl.interface.pacing import FRAME_BYTES, Pacing, Sent, closed_bps
from netctl.traces.trace import OpportunityTrace


class Meter:
    """sch_htb's arithmetic of one class: time is the currency, and a packet leaves when none is owed."""

    def __init__(self, rate_bps: float) -> None:
        self.rate_bps = rate_bps
        self.left_s: list[float] = []
        self._tokens_s, self._checked_s = 0.0, -0.5

    def until(self, now_s: float, packets: list[float]) -> None:
        """Let those of the packets (each from a time on) leave that leave until now."""
        while len(self.left_s) < len(packets):
            # Half a frame's time is the most that is saved up.
            leaves_s = max(packets[len(self.left_s)], self._checked_s - min(0.0, self._tokens_s))
            if leaves_s > now_s:
                return
            frame_s = FRAME_BYTES / max(1, round(self.rate_bps / 8))
            saved_s = min(self._tokens_s + leaves_s - self._checked_s, frame_s / 2)
            self._tokens_s, self._checked_s = saved_s - frame_s, leaves_s
            self.left_s.append(leaves_s)


def replayed(trace: OpportunityTrace, laps: int, late_s: float, packets: list[float]) -> Meter:
    """Replay a trace that begins at time 0, each change being late by up to so much."""
    chance = random.Random(1)
    meter, pacing = Meter(closed_bps(trace, 0.5)), Pacing(trace)

    def seen(now_s: float) -> Sent:
        meter.until(now_s, packets)
        waiting = sum(at <= now_s for at in packets[len(meter.left_s) :])
        return Sent(len(meter.left_s) * FRAME_BYTES, waiting * FRAME_BYTES)

    # The sender is there before.
    pace = pacing.begin(seen(0.0), meter.rate_bps)
    ends_s = laps * trace.period_ms / 1e3
    while (due_s := pace.next_change_ms / 1e3) < ends_s:
        now_s = due_s + chance.uniform(0, late_s)
        pace = pacing.pace(pace.next_step, seen(now_s))
        meter.rate_bps = pace.rate_bps
    meter.until(ends_s, packets)
    return meter


gaps = st.one_of(st.integers(1, 5), st.integers(1, 3000))
traces = st.lists(gaps, min_size=2, max_size=60).map(
    lambda found: OpportunityTrace(tuple(sum(found[: n + 1]) for n in range(len(found))))
)


@given(traces, st.integers(1, 3))
def test_a_saturated_meter_sends_what_the_trace_allows_to_a_packet(
    trace: OpportunityTrace, laps: int
) -> None:
    ends_ms = laps * trace.period_ms
    meter = replayed(trace, laps, late_s=0.0003, packets=[-0.5] * (laps * len(trace.times_ms) + 9))
    sent = sum(0 <= at < ends_ms / 1e3 for at in meter.left_s)
    allowed = trace.allowed_bytes(0, ends_ms) / 1500
    assert abs(sent - allowed) <= max(2, 0.002 * allowed)


@pytest.mark.parametrize(("late_s", "most"), [(0.0, 2), (0.0005, 2), (0.005, 4), (0.02, 45)])
def test_late_changes_are_made_up_for(late_s: float, most: int) -> None:
    # 862 packets in a minute, with gaps of seconds: an open loop is off by up to 2 %.
    chance = random.Random(7)
    # Bursts of some 20 packets, and seconds without any.
    times, at = [], 3000
    while len(times) < 862:
        at += (
            chance.choice((1, 2, 3, 10)) if chance.random() < 0.95 else chance.randrange(900, 2000)
        )
        times.append(at)
    trace = OpportunityTrace(tuple(times))
    meter = replayed(trace, 1, late_s, packets=[-0.5] * 1000)
    sent = sum(0 <= at < trace.period_ms / 1e3 for at in meter.left_s)
    assert abs(sent - 861) <= most


@pytest.mark.parametrize("begins_s", [-0.5, -0.45])
@pytest.mark.parametrize("gaps", [(1, 2, 3, 10), (1, 1, 2, 5, 300), (1, 2, 900, 1)])
def test_at_no_time_is_a_replay_far_from_its_trace(begins_s: float, gaps: tuple[int, ...]) -> None:
    # Whenever the sender began, and so whenever the first packet has been paid for.
    chance = random.Random(5)
    times = [chance.choice(gaps)]
    while times[-1] < 20_000:
        times.append(times[-1] + chance.choice(gaps))
    trace = OpportunityTrace(tuple(times))
    meter = replayed(trace, 1, 0.0005, packets=[begins_s] * (len(times) + 500))
    worst = 0.0
    for at_s in (number / 10 for number in range(5, 200)):
        sent = sum(0 <= one < at_s for one in meter.left_s)
        worst = max(worst, abs(sent - trace.allowed_bytes(0, at_s * 1e3) / 1500))
    assert worst <= 4


def test_nothing_but_one_packet_leaves_before_the_first_opportunity() -> None:
    trace = OpportunityTrace((5000, 5010, 5020, 6000))
    meter = replayed(trace, 1, 0.0, packets=[-0.5] * 100)
    assert [at for at in meter.left_s if at < 4.99] == [-0.5]
    assert meter.left_s[1] == pytest.approx(5.0, abs=0.02)


def test_opportunities_that_nobody_used_are_not_made_up_for() -> None:
    trace = OpportunityTrace(tuple(range(10, 10_001, 10)))
    # Nobody sends for the first five seconds.
    meter = replayed(trace, 1, 0.0, packets=[5.0] * 2000)
    sent = sum(at < 10 for at in meter.left_s)
    assert abs(sent - 500) <= 3
