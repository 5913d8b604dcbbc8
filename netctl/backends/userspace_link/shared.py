"""Classes that share a rate, without the kernel: each is delayed for itself, then they take turns.

Whose turn it is says start-time fair queueing (Goyal, Vin and Cheng 1996, section 2): the class whose
next packet has the smallest start tag; a tag grows by what was sent divided by the weight, and a class
that had nothing to send begins at the tag of the packet in service.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Generic

from netctl.backends.userspace_link.codel import CoDel
from netctl.backends.userspace_link.shaper import Counters, DirectionShaper, Packet
from netctl.conditions.classes import SharedLink
from netctl.conditions.link import FRAME_HEADER_BYTES, DirectionConditions


class _Class(Generic[Packet]):
    """What one class has waiting."""

    def __init__(
        self,
        conditions: DirectionConditions,
        weight: float,
        shared_bps: int | None,
        delaying: DirectionShaper[Packet],
    ) -> None:
        self.delaying = delaying
        self.weight = weight
        self.byte_s = 0.0 if conditions.rate_bps is None else 8 / conditions.rate_bps
        self.free_s = float("-inf")
        """When its own rate lets it send again."""
        self.tag = 0.0
        self.queue: deque[tuple[float, int, Packet]] = deque()
        """When a packet was ready, and its IP bytes."""
        self.queue_bytes = 0
        limiting = [rate for rate in (conditions.rate_bps, shared_bps) if rate is not None]
        timed = replace(conditions, rate_bps=min(limiting)) if limiting else conditions
        self.limit_bytes = timed.queue_limit_bytes
        self.limit_packets = conditions.queue_packets
        self.codel = None
        if conditions.queue_discipline == "codel":
            self.codel = CoDel(conditions.mtu_bytes + FRAME_HEADER_BYTES)

    def full(self, frame_bytes: int) -> bool:
        if self.limit_packets is not None:
            return len(self.queue) >= self.limit_packets
        return self.limit_bytes is not None and self.queue_bytes + frame_bytes > self.limit_bytes


class SharedShaper(Generic[Packet]):
    """Holds the packets of one direction until they are due. Times are seconds of any one clock."""

    def __init__(
        self,
        link: SharedLink,
        seed: int,
        *,
        classify: Callable[[Packet], int],
        flip: Callable[[Packet, float], Packet] | None = None,
    ) -> None:
        """`classify` gives the index of a packet's class, the one after the last being the others'."""
        self._classify = classify
        self._byte_s = 0.0 if link.rate_bps is None else 8 / link.rate_bps
        self._free_s = float("-inf")
        self._virtual = 0.0
        """The start tag of the packet in service."""
        asked = [*((c.conditions, c.weight) for c in link.classes), (link.others, 1.0)]
        self._classes: list[_Class[Packet]] = []
        for number, (conditions, weight) in enumerate(asked):
            # Its rate is minded where it takes turns.
            free = replace(
                conditions, rate_bps=None, queue_discipline="drop-tail", queue_packets=None
            )
            delaying = DirectionShaper(free, seed * 1000 + number, flip=flip)
            self._classes.append(_Class(conditions, weight, link.rate_bps, delaying))
        self._leaving: list[tuple[float, int, int, Packet]] = []
        self._order = itertools.count()
        self._overflowed = self._delivered = self._delivered_bytes = 0

    @property
    def counters(self) -> Counters:
        """What happened to the packets of all classes."""
        each = [one.delaying.counters for one in self._classes]
        return Counters(
            offered=sum(c.offered for c in each),
            lost=sum(c.lost for c in each),
            overflowed=self._overflowed,
            delivered=self._delivered,
            delivered_bytes=self._delivered_bytes,
            duplicated=sum(c.duplicated for c in each),
            corrupted=sum(c.corrupted for c in each),
            reordered=sum(c.reordered for c in each),
        )

    def offer(self, packet: Packet, packet_bytes: int, now_s: float) -> None:
        """Take a packet of so many IP bytes; it may be lost."""
        self._classes[self._classify(packet)].delaying.offer(packet, packet_bytes, now_s)

    def next_due_s(self) -> float | None:
        """When something is to be done next; None where nothing is held."""
        times = [due for one in self._classes if (due := one.delaying.next_due_s()) is not None]
        if self._leaving:
            times.append(self._leaving[0][0])
        start_s = self._next_start_s()
        if start_s is not None:
            times.append(start_s)
        return min(times, default=None)

    def take_due(self, now_s: float) -> list[Packet]:
        """Hand out the packets that are due, in order."""
        ready = [
            (due_s, number, packet_bytes, packet)
            for number, one in enumerate(self._classes)
            for due_s, packet_bytes, packet in one.delaying.take_timed(now_s)
        ]
        # In the order of time: what is served at one moment cannot know what comes at a later one.
        ready.sort(key=lambda each: each[0])
        for due_s, number, packet_bytes, packet in ready:
            self._serve(due_s)
            self._queue(self._classes[number], due_s, packet_bytes, packet)
        self._serve(now_s)
        due: list[Packet] = []
        while self._leaving and self._leaving[0][0] <= now_s:
            _, _, packet_bytes, packet = heapq.heappop(self._leaving)
            self._delivered += 1
            self._delivered_bytes += packet_bytes
            due.append(packet)
        return due

    def _queue(
        self, one: _Class[Packet], ready_s: float, packet_bytes: int, packet: Packet
    ) -> None:
        frame_bytes = packet_bytes + FRAME_HEADER_BYTES
        if one.full(frame_bytes):
            self._overflowed += 1
            return
        if not one.queue:
            one.tag = max(one.tag, self._virtual)
        one.queue.append((ready_s, packet_bytes, packet))
        one.queue_bytes += frame_bytes

    def _start_s(self, one: _Class[Packet]) -> float:
        return max(self._free_s, one.free_s, one.queue[0][0])

    def _next_start_s(self) -> float | None:
        return min((self._start_s(one) for one in self._classes if one.queue), default=None)

    def _serve(self, until_s: float) -> None:
        """Send what may begin until then."""
        while True:
            start_s = self._next_start_s()
            if start_s is None or start_s > until_s:
                return
            one = min(
                (c for c in self._classes if c.queue and self._start_s(c) <= start_s),
                key=lambda c: c.tag,
            )
            ready_s, packet_bytes, packet = one.queue.popleft()
            frame_bytes = packet_bytes + FRAME_HEADER_BYTES
            one.queue_bytes -= frame_bytes
            if one.codel is not None and one.codel.drops(
                start_s - ready_s, one.queue_bytes, start_s
            ):
                self._overflowed += 1
                continue
            self._virtual = one.tag
            one.tag += frame_bytes / one.weight
            one.free_s = start_s + frame_bytes * one.byte_s
            self._free_s = start_s + frame_bytes * self._byte_s
            end_s = max(one.free_s, self._free_s)
            heapq.heappush(self._leaving, (end_s, next(self._order), packet_bytes, packet))
