"""When a link has sent a packet: constant rates, and traces whose future is known."""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import Protocol

from netctl.conditions.link import FRAME_HEADER_BYTES
from netctl.traces.trace import OPPORTUNITY_BYTES, OpportunityTrace


class Service(Protocol):
    """Sends packets one after another. Times are seconds of the link's clock."""

    def finish_s(self, start_s: float, packet_bytes: int) -> float:
        """When an IP packet that may be sent from `start_s` on has left; calls are in order."""


class Unlimited:
    """A link that sends at once."""

    def finish_s(self, start_s: float, packet_bytes: int) -> float:
        del packet_bytes
        return start_s


class ConstantRate:
    """Frames at a rate in bit/s."""

    def __init__(self, rate_bps: float) -> None:
        self._byte_s = 8 / rate_bps

    def finish_s(self, start_s: float, packet_bytes: int) -> float:
        return start_s + (packet_bytes + FRAME_HEADER_BYTES) * self._byte_s


class Opportunities:
    """Mahimahi's link: bytes leave at the instants of a trace, and what is not used then is lost."""

    def __init__(self, trace: OpportunityTrace, begin_s: float) -> None:
        self._times_s = [time_ms / 1e3 for time_ms in trace.times_ms]
        self._period_s = trace.period_ms / 1e3
        self._lap_s = begin_s
        self._next = 0
        self._left = 0
        self._now_s = float("-inf")
        """Of the opportunity whose bytes are left."""

    def finish_s(self, start_s: float, packet_bytes: int) -> float:
        if start_s > self._now_s:
            self._left = 0
            self._skip_to(start_s)
        while packet_bytes > self._left:
            packet_bytes -= self._left
            self._take()
        self._left -= packet_bytes
        return self._now_s

    def _skip_to(self, start_s: float) -> None:
        # A microsecond of grace: binary fractions must not lose an opportunity. The last one of a lap
        # is at the very moment at which the next lap begins.
        ahead_s = start_s - self._lap_s - 1e-6
        laps = math.ceil(ahead_s / self._period_s) - 1
        if laps > 0:
            self._lap_s += laps * self._period_s
            self._next = 0
        found = bisect_left(self._times_s, start_s - self._lap_s - 1e-6)
        self._next = max(self._next, found)

    def _take(self) -> None:
        if self._next == len(self._times_s):
            self._lap_s += self._period_s
            self._next = 0
        self._now_s = self._lap_s + self._times_s[self._next]
        self._left = OPPORTUNITY_BYTES
        self._next += 1
