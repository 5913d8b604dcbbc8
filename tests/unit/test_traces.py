"""Traces: read from files, replayed packet by packet, and as rates for a meter."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airloom.errors import ConfigurationError
from netctl.backends.userspace_link.service import Opportunities
from netctl.backends.userspace_link.shaper import DirectionShaper
from netctl.conditions.link import DirectionConditions
from netctl.interface.replay import interpolation, laps
from netctl.traces.files import read_opportunities, read_steps
from netctl.traces.trace import (
    OPPORTUNITY_BYTES,
    ConditionStep,
    ConditionTrace,
    OpportunityTrace,
    rate_steps,
)

traces = (
    st.lists(st.integers(0, 200), min_size=1, max_size=60)
    .map(lambda times: OpportunityTrace((*sorted(times), 201)))
)  # fmt: skip


@given(traces, st.integers(0, 400))
def test_a_saturated_link_delivers_each_window_what_the_trace_allows(
    trace: OpportunityTrace, start_ms: int
) -> None:
    service = Opportunities(trace, begin_s=10.0)
    times = [service.finish_s(10 + start_ms / 1e3, OPPORTUNITY_BYTES) for _ in range(150)]
    assert times == sorted(times)
    end_ms = round((times[-1] - 10) * 1e3)
    for window_ms in range(start_ms, end_ms - 20, 20):
        delivered = sum(window_ms <= (at - 10) * 1e3 + 1e-6 < window_ms + 20 for at in times)
        assert delivered * OPPORTUNITY_BYTES == trace.allowed_bytes(window_ms, window_ms + 20)


def test_what_is_not_used_is_lost_and_small_packets_share_an_opportunity() -> None:
    service = Opportunities(OpportunityTrace((1, 2, 3, 10)), begin_s=0.0)
    assert service.finish_s(0.0025, 700) == pytest.approx(0.003)
    assert service.finish_s(0.0025, 700) == pytest.approx(0.003)
    # 100 bytes are left, the rest waits for the next one; then the trace begins again.
    assert service.finish_s(0.0025, 700) == pytest.approx(0.010)
    assert service.finish_s(0.0105, 1500) == pytest.approx(0.011)


@given(traces)
def test_rates_for_a_meter_send_as_many_packets_as_the_trace(trace: OpportunityTrace) -> None:
    steps = rate_steps(trace)
    starts = [step.start_ms for step in steps]
    assert starts == sorted(starts)
    ends = [*starts[1:], trace.period_ms + trace.times_ms[0]]
    bits = sum(s.rate_bps * (end - s.start_ms) / 1e3 for s, end in zip(steps, ends, strict=True))
    assert bits / (1514 * 8) == pytest.approx(len(trace.times_ms))


def test_a_trace_meters_what_was_delayed_before() -> None:
    shaper: DirectionShaper[int] = DirectionShaper(
        DirectionConditions(delay_ms=5),
        1,
        service=Opportunities(OpportunityTrace((10, 20)), begin_s=0.0),
    )
    shaper.offer(1, 1500, 0.001)
    shaper.offer(2, 1500, 0.006)
    assert shaper.next_due_s() == pytest.approx(0.010)
    assert shaper.take_due(0.010) == [1]
    assert shaper.next_due_s() == pytest.approx(0.020)


def test_a_trace_goes_on_whatever_is_ordered_meanwhile() -> None:
    shaper: DirectionShaper[int] = DirectionShaper(
        DirectionConditions(), 1, service=Opportunities(OpportunityTrace((10, 20)), begin_s=0.0)
    )
    shaper.use(DirectionConditions(delay_ms=5), 0.0)
    shaper.offer(1, 1500, 0.001)
    shaper.offer(2, 1500, 0.001)
    assert shaper.next_due_s() == pytest.approx(0.010)
    assert shaper.take_due(0.010) == [1]
    assert shaper.next_due_s() == pytest.approx(0.020)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("1\n5\n3\n", 3, "3 comes after 5"),
        ("1\n2.5\n", 2, "'2.5' is not a whole number of milliseconds"),
        ("", None, "opportunity after its beginning"),
        ("0\n0\n", None, "opportunity after its beginning"),
    ],
)
def test_a_wrong_mahimahi_trace_is_refused_by_line(
    tmp_path: Path, text: str, line: int | None, says: str
) -> None:
    path = tmp_path / "wrong.up"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=says) as caught:
        read_opportunities(path)
    assert (caught.value.source, caught.value.line) == (path, line)


def test_a_table_of_conditions_is_read_with_its_units(tmp_path: Path) -> None:
    path = tmp_path / "drive.csv"
    path.write_text("time_s,rate_mbps,delay_ms,loss\n0,10,20,0\n1,20,40,0.1\n")
    trace = read_steps(path)
    assert trace.period_ms == 2000
    assert trace.at(500).rate_bps == 10e6
    halfway = trace.at(500, interpolated=True)
    assert (halfway.rate_bps, halfway.delay_ms, halfway.loss) == (15e6, 30, 0.05)
    assert trace.at(3500).delay_ms == 40


def test_a_table_is_replayed_in_laps_or_on_lines_between_its_rows() -> None:
    table = ConditionTrace(
        (ConditionStep(0, 8e6, 20, 0), ConditionStep(1000, 4e6, 40, 0.1)), period_ms=2000
    )
    rows = list(itertools.islice(laps(table), 3))
    assert [step.start_ms for step in rows] == [0, 1000, 2000]
    lines = list(itertools.islice(interpolation(table, 250), 4))
    assert [step.delay_ms for step in lines] == [20, 25, 30, 35]
    base = DirectionConditions(1_000_000, 5, 5, 0.5)
    with pytest.raises(ValueError, match="before it was sent"):
        ConditionStep(0, delay_ms=4).on(base)
    changed = lines[2].on(base)
    assert (changed.rate_bps, changed.delay_ms, changed.loss) == (6_000_000, 30, 0.05)
    assert not ConditionStep(0, 0.0).on(base).up


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("rate_mbps\n1\n", 1, "no column time_s"),
        ("time_s,speed\n0,1\n", 1, "there is no column 'speed'"),
        ("time_s,loss\n0,0\n1,1.5\n", 3, "not from 0 to 1"),
        ("time_s,loss\n0,0\n0,0\n", 3, "times must increase"),
        ("time_s,loss\n0,0\n1\n", 3, "1 values for 2 columns"),
        ("time_s,loss\n0,zero\n", 2, "'zero' is not a number"),
        ("time_s,loss\n0,0\n", None, "needs two"),
    ],
)
def test_a_wrong_table_is_refused_by_line(
    tmp_path: Path, text: str, line: int | None, says: str
) -> None:
    path = tmp_path / "wrong.csv"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=says) as caught:
        read_steps(path)
    assert caught.value.line == line
