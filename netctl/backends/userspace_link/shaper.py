"""When a packet leaves a shaped direction: the arithmetic of sch_netem and sch_htb, without the kernel.

In netem_enqueue()'s order: duplicate, lose, corrupt, delay (Linux's net/sched/sch_netem.c); then a queue
with its limit, and the rate. What queues has no date: it is served when its turn comes, at the rate
that holds then, so that a full queue empties slowly after a fade, as a radio's does. Seeded, so that
the same packets at the same times meet the same fate again.
"""

from __future__ import annotations

import copy
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
        self._delayed: deque[tuple[float, int, Packet]] = deque()
        """When it will have been delayed, IP bytes, packet: in the order in which they come to the queue."""
        self._queue: deque[tuple[float, int, Packet]] = deque()
        """The same, of what waits for the rate."""
        self._queue_bytes = 0
        """Of frames."""
        self._leaving: deque[tuple[float, int, Packet]] = deque()
        """When it will have been sent, of what is being sent."""
        self._reserved: deque[tuple[float, int]] = deque()
        """What a trace sends later still fills its queue: until when, and its frame's bytes."""
        self._overtaking: list[tuple[float, int, int, Packet]] = []
        """What may leave before what came earlier, as a heap."""
        self._order = itertools.count()
        self._last_exit_s = self._free_s = float("-inf")
        self._last_jitter = 0.0
        self._codel: CoDel | None = None
        self.traced = service is not None
        """Whether a trace says when packets leave."""
        self._service: Service = service if service is not None else Unlimited()
        self._configure(conditions)

    def use(self, conditions: DirectionConditions, now_s: float) -> None:
        """From now on shape so: new delays for what is offered, a new rate for what queues as well.

        A trace goes on in place of any rate.
        """
        self._advance(now_s)
        self._configure(conditions)

    def _configure(self, conditions: DirectionConditions) -> None:
        self.conditions = c = conditions
        given = c.distribution
        self._table = table_steps(given) if isinstance(given, DelayTable) else table(given)
        self._losses: Iterator[bool] | None = (
            c.loss_model.lost(self._random) if c.loss_model is not None else None
        )
        if not self.traced:
            self._service = Unlimited() if c.rate_bps is None else ConstantRate(c.rate_bps)
        self._metered = self.traced or c.rate_bps is not None
        self._free = not self._metered and c.slots is None
        self._limit_bytes = c.queue_limit_bytes if self._metered else None
        if self.traced and self._limit_bytes is None and c.queue_packets is None:
            self._limit_bytes = c.queue_bytes or 1 << 20
        if c.queue_discipline != "codel" or not self._metered:
            self._codel = None
        elif self._codel is None:
            self._codel = CoDel(c.mtu_bytes + FRAME_HEADER_BYTES)
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
            self._delay(packet, packet_bytes, exit_s)
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
        self._delay(packet, packet_bytes, exit_s)

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

    def _delay(self, packet: Packet, packet_bytes: int, exit_s: float) -> None:
        # Never before the packet ahead: that keeps the order.
        if exit_s < self._last_exit_s:
            exit_s = self._last_exit_s
        self._last_exit_s = exit_s
        self._delayed.append((exit_s, packet_bytes, packet))

    def _advance(self, now_s: float) -> None:
        """Do what has happened until now in the order of time: packets join the queue, or begin to be sent."""
        delayed, queue = self._delayed, self._queue
        while True:
            joins_s = delayed[0][0] if delayed else math.inf
            if queue:
                starts_s = max(self._free_s, queue[0][0])
                if starts_s <= joins_s:
                    if starts_s > now_s:
                        return
                    self._send(starts_s)
                    continue
            if not delayed or joins_s > now_s:
                return
            if self._free:
                # Nothing to queue for: the common case of a link without a rate, made short.
                _, packet_bytes, packet = delayed.popleft()
                self._leaving.append((max(joins_s, self._free_s), packet_bytes, packet))
            else:
                self._join(delayed.popleft())

    def _join(self, one: tuple[float, int, Packet]) -> None:
        ready_s, packet_bytes, _ = one
        frame_bytes = packet_bytes + FRAME_HEADER_BYTES
        if self._metered:
            self._settle(ready_s)
            limit = self._limit_bytes
            full = (
                self._queue_bytes + frame_bytes > limit
                if limit is not None
                else len(self._queue) + len(self._reserved) >= (self.conditions.queue_packets or 0)
            )
            if full:
                self.counters.overflowed += 1
                return
        self._queue_bytes += frame_bytes
        self._queue.append(one)

    def _settle(self, now_s: float) -> None:
        """Let go of the room of what a trace has sent until now."""
        while self._reserved and self._reserved[0][0] <= now_s:
            self._queue_bytes -= self._reserved.popleft()[1]

    def _send(self, start_s: float) -> None:
        """Begin to send the first of the queue, or drop it where CoDel says so."""
        ready_s, packet_bytes, packet = self._queue.popleft()
        frame_bytes = packet_bytes + FRAME_HEADER_BYTES
        self._settle(start_s)
        behind_bytes = self._queue_bytes - frame_bytes
        if self._codel is not None and self._codel.drops(start_s - ready_s, behind_bytes, start_s):
            self._queue_bytes = behind_bytes
            self.counters.overflowed += 1
            return
        due_s = self._service.finish_s(start_s, packet_bytes)
        # What is being sent waits no more; a trace's packet waits until its opportunity.
        if self.traced:
            self._reserved.append((due_s, frame_bytes))
        else:
            self._queue_bytes = behind_bytes
        if self._slots is not None:
            due_s = self._slot_s(due_s, packet_bytes)
        self._free_s = due_s
        self._leaving.append((due_s, packet_bytes, packet))

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
        """When there is something to do next; None where nothing is held."""
        times = [self._overtaking[0][0]] if self._overtaking else []
        if self._leaving:
            times.append(self._leaving[0][0])
        else:
            first = self._queue[0] if self._queue else self._delayed[0] if self._delayed else None
            if first is not None:
                # When it will have been sent, were nothing changed: it need not be looked at before.
                service = copy.copy(self._service) if self.traced else self._service
                times.append(service.finish_s(max(self._free_s, first[0]), first[1]))
        return min(times, default=None)

    def take_due(self, now_s: float) -> list[Packet]:
        """Hand out the packets that are due, in order."""
        return [packet for _, _, packet in self.take_timed(now_s)]

    def take_timed(self, now_s: float) -> list[tuple[float, int, Packet]]:
        """The same, each with when it was due and its IP bytes."""
        self._advance(now_s)
        due: list[tuple[float, int, Packet]] = []
        leaving, counters = self._leaving, self.counters
        while self._overtaking and self._overtaking[0][0] <= now_s:
            due_s, _, packet_bytes, packet = heapq.heappop(self._overtaking)
            counters.delivered += 1
            counters.delivered_bytes += packet_bytes
            due.append((due_s, packet_bytes, packet))
        while leaving and leaving[0][0] <= now_s:
            one = leaving.popleft()
            counters.delivered += 1
            counters.delivered_bytes += one[1]
            due.append(one)
        return due
