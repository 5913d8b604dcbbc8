"""One-way rate, delay, jitter and loss between two network namespaces of this machine.

Both ends are sockets of this process, so one clock stamps departure and arrival; arrivals are
stamped by the kernel (SO_TIMESTAMPNS).
"""

from __future__ import annotations

import itertools
import select
import socket
import statistics
import struct
import time
from dataclasses import dataclass

from netctl.conditions import FRAME_HEADER_BYTES, DirectionConditions
from netctl.linux import network_namespace
from netctl.measure.statistics import Estimate, mean_interval, median_interval, wilson
from protos.errors import LinkError

_SO_TIMESTAMPNS = 35
_UDP_IP_HEADER_BYTES = 28
_HEADER = struct.Struct("!IIq")
_FULL_PAYLOAD = 1472
_PROBE_PAYLOAD = 100
_WINDOWS = 10
_WARM_UP_PROBES = 10


@dataclass(frozen=True, slots=True)
class Arrival:
    """One packet that arrived."""

    sequence: int
    sent_ns: int
    received_ns: int


@dataclass(frozen=True, slots=True)
class DirectionMeasurement:
    """What one direction was measured to be; the rate is None where it is asked to be unlimited."""

    rate_bps: Estimate | None
    delay_ms: Estimate
    """The median: a machine that was busy for a moment must not look like a slower link."""
    jitter_ms: float
    """Half the width of the middle 95 % of delays, scaled to the whole of a uniform jitter."""
    loss: Estimate
    reordered: int


class Path:
    """A pair of UDP sockets, sender and receiver, each in its own namespace."""

    def __init__(
        self, sender: tuple[str | None, str], receiver: tuple[str | None, str], port: int = 0
    ) -> None:
        with network_namespace(receiver[0]):
            self._receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with network_namespace(sender[0]):
            self._sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 23)
        self._receiver.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
        self._receiver.bind((receiver[1], port))
        self._sender.bind((sender[1], 0))
        self._sender.connect(self._receiver.getsockname())
        self._receiver.setblocking(False)
        self._run = 0

    def close(self) -> None:
        self._sender.close()
        self._receiver.close()

    def stream(self, count: int, payload: int, interval_s: float, grace_s: float) -> list[Arrival]:
        """Send packets at an interval, then wait for stragglers; return what arrived, in order."""
        self._run += 1
        padding = bytes(payload - _HEADER.size)
        arrivals: list[Arrival] = []
        start_s = time.monotonic()
        sent = 0
        while sent < count:
            now_s = time.monotonic()
            while sent < count and start_s + sent * interval_s <= now_s:
                header = _HEADER.pack(self._run, sent, time.time_ns())
                self._sender.send(header + padding)
                sent += 1
            self._collect(arrivals, max(0.0, start_s + sent * interval_s - time.monotonic()))
        deadline_s = time.monotonic() + grace_s
        while len(arrivals) < count and (left_s := deadline_s - time.monotonic()) > 0:
            self._collect(arrivals, left_s)
        return arrivals

    def _collect(self, arrivals: list[Arrival], timeout_s: float) -> None:
        if not select.select((self._receiver,), (), (), timeout_s)[0]:
            return
        while True:
            try:
                data, ancillary, _, _ = self._receiver.recvmsg(2048, 64)
            except BlockingIOError:
                return
            run, sequence, sent_ns = _HEADER.unpack_from(data)
            if run != self._run:
                continue
            (stamp,) = [value for _, kind, value in ancillary if kind == _SO_TIMESTAMPNS]
            seconds, nanoseconds = struct.unpack("qq", stamp)
            arrivals.append(Arrival(sequence, sent_ns, seconds * 1_000_000_000 + nanoseconds))


def _rate(path: Path, asked: DirectionConditions, duration_s: float) -> Estimate:
    assert asked.rate_bps is not None
    frame_bits = (_FULL_PAYLOAD + _UDP_IP_HEADER_BYTES + FRAME_HEADER_BYTES) * 8
    # Above the rate even after loss, so that the queue never runs empty.
    offered_bps = 1.25 * asked.rate_bps / max(0.05, 1 - asked.loss)
    # A slow link is saturated long enough for two hundred packets.
    duration_s = max(duration_s, 200 * frame_bits / asked.rate_bps)
    count = int(offered_bps * duration_s / frame_bits)
    drain_s = (asked.delay_ms + asked.jitter_ms + asked.queue_ms) / 1e3 + 0.5
    arrivals = path.stream(count, _FULL_PAYLOAD, frame_bits / offered_bps, drain_s)
    if len(arrivals) < 10 * _WINDOWS:
        raise LinkError(
            f"only {len(arrivals)} of {count} packets arrived: no rate can be told from them"
        )
    # What arrived before the queue had filled and the first jitter had passed does not count.
    arrivals = arrivals[len(arrivals) // 10 :]
    size = len(arrivals) // _WINDOWS
    rates = []
    for i in range(_WINDOWS):
        window = arrivals[i * size : (i + 1) * size + 1]
        span_s = (window[-1].received_ns - window[0].received_ns) / 1e9
        rates.append((len(window) - 1) * frame_bits / span_s)
    spread = mean_interval(rates)
    total_s = (arrivals[-1].received_ns - arrivals[0].received_ns) / 1e9
    value = (len(arrivals) - 1) * frame_bits / total_s
    half = (spread.high - spread.low) / 2
    return Estimate(value, value - half, value + half, len(arrivals))


def measure_direction(
    path: Path, asked: DirectionConditions, *, probes: int = 1000, rate_duration_s: float = 1.0
) -> DirectionMeasurement:
    """Measure one direction that was asked to be so; the link must otherwise be idle.

    Delay is net of the time that the rate takes to send a probe. Raises LinkError where too
    little arrives to tell.
    """
    probe_bytes = _PROBE_PAYLOAD + _UDP_IP_HEADER_BYTES
    # Probes fill at most a tenth of the rate, so that they do not queue behind each other.
    interval_s = max(0.002, asked.transmission_ms(probe_bytes) / 1e3 * 10)
    grace_s = (asked.delay_ms + asked.jitter_ms) / 1e3 + 0.3
    # A link that keeps the order delays a packet behind a later one: delay is told from probes
    # too far apart to meet, loss from those and from denser ones.
    spaced_s = max(interval_s, 2.2 * asked.jitter_ms / 1e3)
    spaced = max(100, probes // 5)
    # The first packets resolve addresses and fault pages in; they are not measured.
    path.stream(_WARM_UP_PROBES, _PROBE_PAYLOAD, spaced_s, grace_s)
    arrivals = path.stream(spaced, _PROBE_PAYLOAD, spaced_s, grace_s)
    if len(arrivals) < 20:
        raise LinkError(f"only {len(arrivals)} of {spaced} probes arrived: no delay can be told")
    dense = path.stream(probes, _PROBE_PAYLOAD, interval_s, grace_s)
    lost = spaced - len(arrivals) + probes - len(dense)
    transmission_ms = asked.transmission_ms(probe_bytes)
    delays_ms = [(a.received_ns - a.sent_ns) / 1e6 - transmission_ms for a in arrivals]
    cuts = statistics.quantiles(delays_ms, n=40)
    reordered = sum(
        later.sequence < earlier.sequence for earlier, later in itertools.pairwise(dense)
    )
    return DirectionMeasurement(
        rate_bps=None if asked.rate_bps is None else _rate(path, asked, rate_duration_s),
        delay_ms=median_interval(delays_ms),
        jitter_ms=(cuts[-1] - cuts[0]) / 2 / 0.95,
        loss=wilson(lost, spaced + probes),
        reordered=reordered,
    )
