"""When a packet leaves a shaped direction: the arithmetic of sch_netem, without the kernel.

Loss is drawn first, then the queue limit applies, then delay, then the rate; see netem_enqueue()
in Linux's net/sched/sch_netem.c. Seeded, so the same packets meet the same fate again.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

from netctl.conditions import DirectionConditions

Packet = TypeVar("Packet")


@dataclass
class Counters:
    """What happened to the packets of one direction."""

    offered: int = 0
    lost: int = 0
    overflowed: int = 0
    delivered: int = 0
    delivered_bytes: int = 0


class DirectionShaper(Generic[Packet]):
    """Holds the packets of one direction until they are due. Times are seconds of any one clock."""

    def __init__(self, conditions: DirectionConditions, seed: int) -> None:
        self.conditions = conditions
        self.counters = Counters()
        self._random = random.Random(seed).random
        self._held: deque[tuple[float, int, Packet]] = deque()
        self._last_due_s = float("-inf")

    def offer(self, packet: Packet, packet_bytes: int, now_s: float) -> None:
        """Take a packet of so many IP bytes; it may be lost."""
        c, counters = self.conditions, self.counters
        counters.offered += 1
        if c.loss and self._random() < c.loss:
            counters.lost += 1
            return
        if len(self._held) >= c.limit_packets:
            counters.overflowed += 1
            return
        delay_ms = c.delay_ms
        if c.jitter_ms:
            delay_ms += c.jitter_ms * (2 * self._random() - 1)
        # Never before the packet ahead: that keeps the order and shares the rate.
        start_s = max(now_s + delay_ms / 1e3, self._last_due_s)
        self._last_due_s = start_s + c.transmission_ms(packet_bytes) / 1e3
        self._held.append((self._last_due_s, packet_bytes, packet))

    def next_due_s(self) -> float | None:
        """When the next packet is due; None where none is held."""
        return self._held[0][0] if self._held else None

    def take_due(self, now_s: float) -> list[Packet]:
        """Hand out the packets that are due, in order."""
        due: list[Packet] = []
        held, counters = self._held, self.counters
        while held and held[0][0] <= now_s:
            _, packet_bytes, packet = held.popleft()
            counters.delivered += 1
            counters.delivered_bytes += packet_bytes
            due.append(packet)
        return due
