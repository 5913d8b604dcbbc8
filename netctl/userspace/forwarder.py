"""The loop that moves packets between two ports."""

from __future__ import annotations

import select
import signal
import socket
import time
from types import FrameType

from netctl.conditions import LinkConditions
from netctl.linux import minimise_timer_slack, prefer_in_real_time
from netctl.userspace.ports import Port
from netctl.userspace.shaper import DirectionShaper

_BURST = 64
"""Packets read from one port before the other gets its turn."""


class Forwarder:
    """Carries packets from device port to cloud port (up) and back (down) until stopped."""

    def __init__(self, device: Port, cloud: Port, conditions: LinkConditions, seed: int) -> None:
        self.up: DirectionShaper[bytes] = DirectionShaper(conditions.uplink, 2 * seed)
        self.down: DirectionShaper[bytes] = DirectionShaper(conditions.downlink, 2 * seed + 1)
        self._ways = ((device, self.up, cloud), (cloud, self.down, device))
        self._stopping = False
        self._wake_read, self._wake_write = socket.socketpair()

    def stop(self) -> None:
        """End `run` soon; safe from a signal handler or another thread."""
        self._stopping = True
        self._wake_write.send(b"\0")

    def run(self) -> None:
        """Forward until `stop`."""
        minimise_timer_slack()
        # A board's own load must not slow its link: a radio has a processor of its own.
        prefer_in_real_time()
        clock, ways = time.monotonic, self._ways
        readers = [way[0].fileno() for way in ways]
        waited_on = [*readers, self._wake_read.fileno()]
        while not self._stopping:
            dues = [due for _, shaper, _ in ways if (due := shaper.next_due_s()) is not None]
            # select(), because epoll's timeout only knows whole milliseconds.
            timeout_s = max(0.0, min(dues) - clock()) if dues else None
            ready, _, _ = select.select(waited_on, (), (), timeout_s)
            for source, shaper, target in ways:
                if source.fileno() in ready:
                    header = source.header_bytes
                    for _ in range(_BURST):
                        packet = source.receive()
                        if packet is None:
                            break
                        shaper.offer(packet, len(packet) - header, clock())
                for packet in shaper.take_due(clock()):
                    target.send(packet)


def stop_on_signals(forwarder: Forwarder) -> None:
    """End the forwarder in good order on SIGTERM and SIGINT."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        forwarder.stop()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)
