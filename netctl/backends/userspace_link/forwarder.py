"""The loop that moves packets between two ports."""

from __future__ import annotations

import json
import select
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from airloom.errors import AirloomError
from netctl.backends.userspace_link.classify import classifier
from netctl.backends.userspace_link.ports import Port
from netctl.backends.userspace_link.service import Opportunities
from netctl.backends.userspace_link.shaper import DirectionShaper
from netctl.backends.userspace_link.shared import SharedShaper
from netctl.conditions.classes import SharedLink
from netctl.conditions.link import DirectionConditions, LinkConditions
from netctl.json_data import from_python
from netctl.linux import minimise_timer_slack, prefer_in_real_time
from netctl.traces.trace import OpportunityTrace

_BURST = 64
"""Packets read from one port before the other gets its turn."""
_LARGEST_ORDER_BYTES = 1 << 17


def flip_bit(header_bytes: int) -> Callable[[bytes, float], bytes]:
    """Flip the bit at a fraction of a packet's length, after its link-layer header."""

    def flip(packet: bytes, fraction: float) -> bytes:
        bit = int(fraction * (len(packet) - header_bytes) * 8)
        changed = bytearray(packet)
        changed[header_bytes + bit // 8] ^= 1 << (bit % 8)
        return bytes(changed)

    return flip


class Forwarder:
    """Carries packets from device port to cloud port (up) and back (down) until stopped."""

    def __init__(
        self,
        device: Port,
        cloud: Port,
        conditions: LinkConditions,
        seed: int,
        *,
        uplink_trace: OpportunityTrace | None = None,
        downlink_trace: OpportunityTrace | None = None,
        uplink_classes: SharedLink | None = None,
        downlink_classes: SharedLink | None = None,
        control: Path | None = None,
    ) -> None:
        """Traces begin now, and take the place of a direction's rate; classes that of its conditions.

        `control` is where a datagram socket takes orders: JSON with `uplink`, `downlink` or both as
        conditions; its answer has an `error`, which is null where they hold from now on.
        """
        self.begin_s = time.monotonic()
        self.up = self._shaper(
            device, conditions.uplink, uplink_classes, uplink_trace, seed=2 * seed
        )
        self.down = self._shaper(
            cloud, conditions.downlink, downlink_classes, downlink_trace, seed=2 * seed + 1
        )
        self._ways = ((device, self.up, cloud), (cloud, self.down, device))
        self._stopping = False
        self._wake_read, self._wake_write = socket.socketpair()
        self._control_path = control
        self._control: socket.socket | None = None
        if control is not None:
            self._control = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._control.bind(str(control))

    def _shaper(
        self,
        source: Port,
        conditions: DirectionConditions,
        classes: SharedLink | None,
        trace: OpportunityTrace | None,
        *,
        seed: int,
    ) -> DirectionShaper[bytes] | SharedShaper[bytes]:
        flip = flip_bit(source.header_bytes)
        if classes is not None:
            classify = classifier(classes, source.header_bytes)
            return SharedShaper(classes, seed, classify=classify, flip=flip)
        service = None if trace is None else Opportunities(trace, self.begin_s)
        return DirectionShaper(conditions, seed, service=service, flip=flip)

    def stop(self) -> None:
        """End `run` soon; safe from a signal handler or another thread."""
        self._stopping = True
        self._wake_write.send(b"\0")

    def run(self) -> None:
        """Forward until `stop`."""
        minimise_timer_slack()
        # A board's own load must not slow its link: a radio has a processor of its own.
        prefer_in_real_time()
        try:
            self._run()
        finally:
            if self._control is not None and self._control_path is not None:
                self._control.close()
                self._control_path.unlink(missing_ok=True)

    def _run(self) -> None:
        clock = time.monotonic
        ways = [
            (source.fileno(), source.receive, source.header_bytes, shaper, target.send)
            for source, shaper, target in self._ways
        ]
        up, down = self.up, self.down
        waited_on = [ways[0][0], ways[1][0], self._wake_read.fileno()]
        if self._control is not None:
            waited_on.append(self._control.fileno())
        while not self._stopping:
            first, second = up.next_due_s(), down.next_due_s()
            if first is None or (second is not None and second < first):
                first = second
            # select(), because epoll's timeout only knows whole milliseconds.
            timeout_s = None if first is None else max(0.0, first - clock())
            ready, _, _ = select.select(waited_on, (), (), timeout_s)
            for number, receive, header, shaper, send in ways:
                if number in ready:
                    offer = shaper.offer
                    for _ in range(_BURST):
                        packet = receive()
                        if packet is None:
                            break
                        offer(packet, len(packet) - header, clock())
                due = shaper.next_due_s()
                if due is not None and due <= (now := clock()):
                    for packet in shaper.take_due(now):
                        send(packet)
            if self._control is not None and self._control.fileno() in ready:
                self._obey(self._control)

    def _obey(self, control: socket.socket) -> None:
        data, sender = control.recvfrom(_LARGEST_ORDER_BYTES)
        error = None
        try:
            order = json.loads(data)
            wanted = {way: from_python(DirectionConditions, order[way]) for way in order}
            shapers = {"uplink": self.up, "downlink": self.down}
            unknown = [way for way in wanted if way not in shapers]
            if unknown:
                raise ValueError(f"there is no way {unknown[0]!r}; there are uplink and downlink")
            changes = []
            for way, conditions in wanted.items():
                shaper = shapers[way]
                if isinstance(shaper, SharedShaper):
                    raise ValueError(f"the {way} is in classes, which do not change")
                if shaper.traced and conditions.rate_bps is not None:
                    raise ValueError(f"the {way} follows a trace: an order cannot set its rate")
                changes.append((shaper, conditions))
            now_s = time.monotonic()
            for one, conditions in changes:
                one.use(conditions, now_s)
        except (AirloomError, ValueError, TypeError) as problem:
            error = str(problem)
        if sender:
            try:
                control.sendto(json.dumps({"error": error}).encode(), sender)
            except OSError:
                # Whoever asked has gone.
                return


def stop_on_signals(forwarder: Forwarder) -> None:
    """End the forwarder in good order on SIGTERM and SIGINT."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        forwarder.stop()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)
