"""When a packet leaves a shaped direction: the arithmetic of sch_netem, without the kernel.

In netem_enqueue()'s order: duplicate, lose, corrupt, delay; then the queue's limit and the rate
(Linux's net/sched/sch_netem.c). Seeded, so that the same packets at the same times meet the same
fate again.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
import statistics
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from netctl.backends.userspace_link.codel import CoDel
from netctl.backends.userspace_link.service import ConstantRate, Service, Unlimited
from netctl.conditions.jitter import TABLE_SCALE, DelayTable, table, table_steps
from netctl.conditions.link import FRAME_HEADER_BYTES, DirectionConditions

Packet = TypeVar("Packet")
_NORMAL = statistics.NormalDist()
_SMALLEST_DRAW = 2.0**-53
_LARGEST_DRAW = 1 - 2.0**-53


@dataclass
class Counters:
    """What happened to the packets of one direction."""

    offered: int = 0
    lost: int = 0
    overflowed: int = 0
    delivered: int = 0
    delivered_bytes: int = 0
    duplicated: int = 0
    corrupted: int = 0
    reordered: int = 0


class DirectionShaper(Generic[Packet]):
    """Holds the packets of one direction until they are due. Times are seconds of any one clock."""

    def __init__(
        self,
        conditions: DirectionConditions,
        seed: int,
        *,
        service: Service | None = None,
        flip: Callable[[Packet, float], Packet] | None = None,
    ) -> None:
        """`service` meters packets where the rate is a trace's; `flip` flips the bit at a fraction."""
        self.counters = Counters()
        self._random = random.Random(seed).random
        self._flip = flip
        self._held: deque[tuple[float, int, Packet]] = deque()
        self._overtaking: list[tuple[float, int, int, Packet]] = []
        """What may leave before what came earlier, as a heap."""
        self._order = itertools.count()
        self._last_exit_s = self._last_due_s = float("-inf")
        self._backlog: deque[tuple[float, int]] = deque()
        """What waits for the rate: when it stops waiting, and its frame bytes."""
        self._backlog_bytes = 0
        self._last_jitter = 0.0
        self.use(conditions, service)

    def use(self, conditions: DirectionConditions, service: Service | None = None) -> None:
        """Shape what is offered from now on so; what is held leaves as it was told to."""
        self.conditions = c = conditions
        given = c.distribution
        self._table = table_steps(given) if isinstance(given, DelayTable) else table(given)
        self._losses: Iterator[bool] | None = (
            c.loss_model.lost(self._random) if c.loss_model is not None else None
        )
        self._service: Service
        if service is not None:
            self._service = service
        else:
            self._service = Unlimited() if c.rate_bps is None else ConstantRate(c.rate_bps)
        self._traced = service is not None
        self._metered = self._traced or c.rate_bps is not None
        self._limit_bytes = c.queue_limit_bytes if self._metered else None
        if service is not None and self._limit_bytes is None and c.queue_packets is None:
            self._limit_bytes = c.queue_bytes or 1 << 20
        self._codel = CoDel() if c.queue_discipline == "codel" and self._metered else None
        self._delay_s, self._jitter_s = c.delay_ms / 1e3, c.jitter_ms / 1e3
        slots = c.slots
        self._slot_next_s = float("-inf")
        self._slot_packets = self._slot_bytes = float("inf")
        self._slots = slots
        # Nothing but a fixed delay and a rate: the common case, made short.
        self._loss = c.loss if c.loss_model is None else 0.0
        self._plain = not (
            c.duplicate or c.reorder or c.corrupt or slots or c.loss_model or not c.up
            or not c.in_order or self._codel
        )  # fmt: skip

    def offer(self, packet: Packet, packet_bytes: int, now_s: float) -> None:
        """Take a packet of so many IP bytes; it may be lost."""
        self.counters.offered += 1
        if self._plain:
            if self._loss and self._random() < self._loss:
                self.counters.lost += 1
                return
            exit_s = now_s + self._delay_s
            if self._jitter_s:
                exit_s += self._draw_jitter_s()
                if exit_s < now_s:
                    exit_s = now_s
            self._queue(packet, packet_bytes, exit_s)
            return
        c, uniform = self.conditions, self._random
        if c.duplicate and uniform() < c.duplicate:
            # The copy passes everything again but this.
            self.counters.duplicated += 1
            self._disturb(packet, packet_bytes, now_s)
        self._disturb(packet, packet_bytes, now_s)

    def _disturb(self, packet: Packet, packet_bytes: int, now_s: float) -> None:
        c, uniform, counters = self.conditions, self._random, self.counters
        lost = next(self._losses) if self._losses is not None else uniform() < self._loss
        if lost or not c.up:
            counters.lost += 1
            return
        if c.corrupt and uniform() < c.corrupt and self._flip is not None:
            counters.corrupted += 1
            packet = self._flip(packet, uniform())
        if c.reorder and uniform() < c.reorder:
            counters.reordered += 1
            self._overtake(packet, packet_bytes, now_s)
            return
        exit_s = max(
            now_s, now_s + self._delay_s + (self._draw_jitter_s() if self._jitter_s else 0)
        )
        if not c.in_order:
            self._overtake(packet, packet_bytes, exit_s)
            return
        self._queue(packet, packet_bytes, exit_s)

    def _draw_jitter_s(self) -> float:
        """What this packet's delay differs from the mean by."""
        draw = self._random()
        correlation = self.conditions.jitter_correlation
        if correlation:
            # A Gaussian copula: neighbours are correlated, the distribution is what it was.
            fresh = _NORMAL.inv_cdf(max(draw, _SMALLEST_DRAW))
            narrowed = math.sqrt(1 - correlation * correlation) * fresh
            self._last_jitter = correlation * self._last_jitter + narrowed
            draw = min(_NORMAL.cdf(self._last_jitter), _LARGEST_DRAW)
        if self._table is None:
            return self._jitter_s * (2 * draw - 1)
        return self._jitter_s * self._table[int(draw * len(self._table))] / TABLE_SCALE

    def _overtake(self, packet: Packet, packet_bytes: int, due_s: float) -> None:
        heapq.heappush(self._overtaking, (due_s, next(self._order), packet_bytes, packet))

    def _queue(self, packet: Packet, packet_bytes: int, exit_s: float) -> None:
        """Queue a packet that has been delayed until `exit_s` for its turn on the link."""
        # Never before the packet ahead: that keeps the order.
        if exit_s < self._last_exit_s:
            exit_s = self._last_exit_s
        self._last_exit_s = exit_s
        due_s = exit_s
        if self._metered:
            backlog = self._backlog
            frame_bytes = packet_bytes + FRAME_HEADER_BYTES
            while backlog and backlog[0][0] <= exit_s:
                self._backlog_bytes -= backlog.popleft()[1]
            limit = self._limit_bytes
            full = (
                self._backlog_bytes + frame_bytes > limit
                if limit is not None
                else len(backlog) >= (self.conditions.queue_packets or 0)
            )
            if full:
                self.counters.overflowed += 1
                return
            start_s = max(exit_s, self._last_due_s)
            if self._codel is not None and self._codel.drops(start_s - exit_s, start_s):
                self.counters.overflowed += 1
                return
            due_s = self._service.finish_s(start_s, packet_bytes)
            # What is being sent waits no more; a trace's packet waits until its opportunity.
            backlog.append((due_s if self._traced else start_s, frame_bytes))
            self._backlog_bytes += frame_bytes
        if self._slots is not None:
            due_s = self._slot_s(due_s, packet_bytes)
        self._last_due_s = due_s
        self._held.append((due_s, packet_bytes, packet))

    def _slot_s(self, due_s: float, packet_bytes: int) -> float:
        """The time of the slot that a packet due then leaves in."""
        slots = self._slots
        assert slots is not None
        if self._slot_packets <= 0 or self._slot_bytes <= 0 or self._slot_next_s < due_s:
            gap_ms = slots.shortest_ms + (slots.longest_ms - slots.shortest_ms) * self._random()
            self._slot_next_s = max(self._slot_next_s, due_s) + gap_ms / 1e3
            self._slot_packets = slots.packets or float("inf")
            self._slot_bytes = slots.payload_bytes or float("inf")
        self._slot_packets -= 1
        self._slot_bytes -= packet_bytes
        return max(due_s, self._slot_next_s)

    def next_due_s(self) -> float | None:
        """When the next packet is due; None where none is held."""
        if self._overtaking:
            first = self._overtaking[0][0]
            return min(first, self._held[0][0]) if self._held else first
        return self._held[0][0] if self._held else None

    def take_due(self, now_s: float) -> list[Packet]:
        """Hand out the packets that are due, in order."""
        return [packet for _, _, packet in self.take_timed(now_s)]

    def take_timed(self, now_s: float) -> list[tuple[float, int, Packet]]:
        """The same, each with when it was due and its IP bytes."""
        due: list[tuple[float, int, Packet]] = []
        held, counters = self._held, self.counters
        while self._overtaking and self._overtaking[0][0] <= now_s:
            due_s, _, packet_bytes, packet = heapq.heappop(self._overtaking)
            counters.delivered += 1
            counters.delivered_bytes += packet_bytes
            due.append((due_s, packet_bytes, packet))
        while held and held[0][0] <= now_s:
            one = held.popleft()
            counters.delivered += 1
            counters.delivered_bytes += one[1]
            due.append(one)
        return due
