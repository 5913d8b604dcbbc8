"""Which rate lets a meter send what a trace allows, given what it has sent so far.

A meter that charges each packet when it leaves (HTB) follows a trace by rates: `traces.trace.rate_steps`.
A change that came a little late or early charges a packet with its neighbour's gap, and in a trace with
gaps of seconds that is a packet more or less for good. So what has left is counted, and the rate of the
next gap makes up for the difference.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from netctl.conditions.link import FRAME_HEADER_BYTES, MTU_BYTES
from netctl.traces.trace import OpportunityTrace, RateStep, rate_steps

FRAME_BYTES = MTU_BYTES + FRAME_HEADER_BYTES
_LONGEST_LEAD_MS = 30.0
_GAP_MS = 100.0
"""From here on a step is a gap."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What a meter has sent since it was made, and what waits."""

    bytes: int
    backlog_bytes: int


@dataclass(frozen=True, slots=True)
class Pace:
    """A rate, and when it is to be changed again, for which step."""

    rate_bps: float
    next_change_ms: float
    next_step: int


class Pacing:
    """The steps of a trace, lap after lap, corrected by what left. Steps are numbered from 0 on."""

    def __init__(self, trace: OpportunityTrace) -> None:
        self._steps: Sequence[RateStep] = rate_steps(trace)
        self._period_ms = trace.period_ms
        each = [self._step_bytes(number) for number in range(len(self._steps))]
        self._before_bytes = [0.0, *itertools.accumulate(each)]
        """Of all steps before each of one lap; the last is the whole lap's."""
        self._ahead_of = 0.0
        """What had left that the trace does not know of: before it began, or while nothing waited."""
        self._waited = False
        self._rate_bps = 1.0

    def start_ms(self, number: int) -> float:
        """When a step's first packet is to leave."""
        lap, place = divmod(number, len(self._steps))
        return self._steps[place].start_ms + lap * self._period_ms

    def begin(self, sent: Sent, rate_bps: float) -> Pace:
        """The trace begins now: what left before does not count, and one packet is being paid for."""
        self._ahead_of = sent.bytes
        self._waited = sent.backlog_bytes > 0
        return self._until(0, rate_bps)

    def _until(self, number: int, rate_bps: float) -> Pace:
        """Keep a rate until a step."""
        self._rate_bps = rate_bps
        return Pace(rate_bps, self.start_ms(number) - self._lead_ms(), number)

    def _lead_ms(self) -> float:
        """How long before a packet leaves its rate must be in force.

        And not when the one before leaves: halfway between is furthest from both. After a long gap no
        sooner than a late timer asks for: a fast rate must not wait for a slow one's end.
        """
        return min(_LONGEST_LEAD_MS, 0.5 * FRAME_BYTES * 8e3 / self._rate_bps)

    def pace(self, number: int, sent: Sent) -> Pace:
        """The rate from a step on, to be set when `next_change_ms` of the pace before has come."""
        wanted = self._allowed_bytes(number)
        waits = sent.backlog_bytes > 0
        if not (waits and self._waited):
            # What nobody used is lost, as an opportunity is.
            self._ahead_of = sent.bytes - wanted
        self._waited = waits
        ahead = sent.bytes - self._ahead_of - wanted
        own_ms = self.start_ms(number + 1) - self.start_ms(number)
        if own_ms < _GAP_MS:
            # Packets follow each other closely: nothing but a short time in force could be wrong.
            return self._until(number + 1, self._step_bps(number))
        # In a gap there is time to make up for what went wrong before: as many steps as it takes.
        until = number + 1
        while (rate_bps := self._rate_to(number, until, ahead)) is None:
            until += 1
        return self._until(until, rate_bps)

    def _rate_to(self, number: int, until: int, ahead_bytes: float) -> float | None:
        """The rate that is right when step `until` begins; None where whoever is ahead must wait longer."""
        missing = self._allowed_bytes(until) - self._allowed_bytes(number) - ahead_bytes
        if missing < FRAME_BYTES / 2:
            return None
        return missing * 8e3 / (self.start_ms(until) - self.start_ms(number))

    def _step_bps(self, number: int) -> float:
        return self._steps[number % len(self._steps)].rate_bps

    def _step_bytes(self, number: int) -> float:
        step = self._steps[number % len(self._steps)]
        return step.rate_bps * (self.start_ms(number + 1) - self.start_ms(number)) / 8e3

    def _allowed_bytes(self, number: int) -> float:
        """Of all steps before."""
        lap, place = divmod(number, len(self._steps))
        return lap * self._before_bytes[-1] + self._before_bytes[place]


def closed_bps(trace: OpportunityTrace, wait_s: float) -> float:
    """The rate at which one packet takes until a trace's first opportunity, `wait_s` before it begins."""
    return FRAME_BYTES * 8 / (wait_s + max(1.0, trace.times_ms[0]) / 1e3)
