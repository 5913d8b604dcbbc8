"""Traces as data: delivery opportunities, and steps of conditions."""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, replace

from netctl.conditions.link import FRAME_HEADER_BYTES, DirectionConditions

OPPORTUNITY_BYTES = 1500
_OPPORTUNITY_FRAME_BITS = (OPPORTUNITY_BYTES + FRAME_HEADER_BYTES) * 8


@dataclass(frozen=True, slots=True)
class OpportunityTrace:
    """Mahimahi's format: at each of these times 1500 bytes of IP may leave; then it starts again."""

    times_ms: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.times_ms or self.times_ms[-1] <= 0:
            raise ValueError("a trace needs an opportunity after its beginning")
        if any(later < earlier for earlier, later in itertools.pairwise(self.times_ms)):
            raise ValueError("a trace's times must not decrease")
        if self.times_ms[0] < 0:
            raise ValueError("a trace's times must not be negative")

    @property
    def period_ms(self) -> int:
        """Its last time: there it wraps around."""
        return self.times_ms[-1]

    @property
    def mean_rate_bps(self) -> float:
        """Of IP packets."""
        return len(self.times_ms) * OPPORTUNITY_BYTES * 8e3 / self.period_ms

    def allowed_bytes(self, from_ms: float, to_ms: float) -> int:
        """How many bytes of IP may leave in [from, to), from the trace's beginning on."""
        return (self._before(to_ms) - self._before(from_ms)) * OPPORTUNITY_BYTES

    def _before(self, at_ms: float) -> int:
        laps, rest = divmod(at_ms, self.period_ms)
        before = int(laps) * len(self.times_ms) + bisect_left(self.times_ms, rest)
        if laps and rest == 0:
            # Those of the last time are at the very end of a lap, not before it.
            before -= len(self.times_ms) - bisect_left(self.times_ms, self.period_ms)
        return before


@dataclass(frozen=True, slots=True)
class ConditionStep:
    """What holds from `start_ms` on; None is what held without the trace."""

    start_ms: float
    rate_bps: float | None = None
    delay_ms: float | None = None
    loss: float | None = None

    def on(self, base: DirectionConditions) -> DirectionConditions:
        """Conditions as this step has them; what it does not say is the base's.

        ValueError for what no link can be, such as a delay shorter than the base's jitter.
        """
        changed = base
        if self.rate_bps is not None:
            # A rate of nothing is a dead zone: no meter can have it.
            rate_bps = round(self.rate_bps)
            changed = replace(changed, up=rate_bps > 0, rate_bps=rate_bps or changed.rate_bps)
        if self.delay_ms is not None:
            changed = replace(changed, delay_ms=self.delay_ms)
        if self.loss is not None:
            changed = replace(changed, loss=self.loss, loss_model=None)
        return changed


@dataclass(frozen=True, slots=True)
class ConditionTrace:
    """Conditions over time; after `period_ms` they start again."""

    steps: tuple[ConditionStep, ...]
    period_ms: float

    def at(self, time_ms: float, *, interpolated: bool = False) -> ConditionStep:
        """What holds at a time; `interpolated`, on the line between this step and the next."""
        time_ms %= self.period_ms
        starts = [step.start_ms for step in self.steps]
        index = max(0, bisect_right(starts, time_ms) - 1)
        step = self.steps[index]
        if not interpolated or index + 1 == len(self.steps):
            return ConditionStep(time_ms, step.rate_bps, step.delay_ms, step.loss)
        after = self.steps[index + 1]
        part = (time_ms - step.start_ms) / (after.start_ms - step.start_ms)

        def between(one: float | None, other: float | None) -> float | None:
            return one if one is None or other is None else one + (other - one) * max(0.0, part)

        return ConditionStep(
            time_ms,
            between(step.rate_bps, after.rate_bps),
            between(step.delay_ms, after.delay_ms),
            between(step.loss, after.loss),
        )

    def opportunities(self) -> OpportunityTrace:
        """The rates alone, as delivery opportunities; ValueError where a step has none."""
        times: list[int] = []
        credit = 0.0
        for time_ms in range(round(self.period_ms)):
            rate_bps = self.at(time_ms).rate_bps
            if rate_bps is None:
                raise ValueError("only a trace with rates has delivery opportunities")
            credit += rate_bps / 1e3 / 8 / OPPORTUNITY_BYTES
            times += [time_ms + 1] * int(credit)
            credit -= int(credit)
        # The last time is the period, where the trace begins again.
        if not times or times[-1] != round(self.period_ms):
            times.append(round(self.period_ms))
        return OpportunityTrace(tuple(times))


@dataclass(frozen=True, slots=True)
class RateStep:
    """From `start_ms` on, frames leave at `rate_bps`."""

    start_ms: float
    rate_bps: float


def rate_steps(trace: OpportunityTrace, shortest_ms: float = 1.0) -> list[RateStep]:
    """A trace as rates for a meter that charges each packet when it leaves (HTB), one period long.

    A packet that leaves at t is charged at the rate r in force, and the next leaves at t + L/r. So the
    k packets at one time and the gap g until the next time make the rate k·L/g: each packet leaves
    when the trace says, those of the same millisecond spread over the gap. Gaps shorter than
    `shortest_ms` are joined with the next.
    """
    counted = [(time, len(list(same))) for time, same in itertools.groupby(trace.times_ms)]
    steps: list[RateStep] = []
    starts = [time for time, _ in counted]
    ends = [*starts[1:], trace.period_ms + starts[0]]
    begin, packets = float(starts[0]), 0
    for (start, count), end in zip(counted, ends, strict=True):
        if packets == 0:
            begin = float(start)
        packets += count
        if end - begin >= shortest_ms:
            steps.append(RateStep(begin, packets * _OPPORTUNITY_FRAME_BITS * 1e3 / (end - begin)))
            packets = 0
    if packets and steps:
        # The last ones share the wrap's gap with the step before.
        last = steps.pop()
        span = trace.period_ms + starts[0] - last.start_ms
        before = last.rate_bps * (begin - last.start_ms) / 1e3
        steps.append(
            RateStep(last.start_ms, (before + packets * _OPPORTUNITY_FRAME_BITS) * 1e3 / span)
        )
    return steps
