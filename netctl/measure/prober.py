"""One-way rate, delay, jitter and loss between two network namespaces of this machine.

Both ends are sockets of this process, so one clock stamps departure and arrival; arrivals are
stamped by the kernel (SO_TIMESTAMPNS).
"""

from __future__ import annotations

import itertools
import math
import select
import socket
import statistics
import struct
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from airloom.errors import LinkError
from airloom.units import format_rate
from netctl.conditions.link import FRAME_HEADER_BYTES, DirectionConditions
from netctl.linux import network_namespace
from netctl.measure.judge import share_samples
from netctl.measure.statistics import Z_95, Estimate, mean_interval, median_interval, wilson

_SO_RCVBUFFORCE = 33
_SO_TIMESTAMPNS = 35
_SO_RXQ_OVFL = 40
_RECEIVE_BUFFER_BYTES = 1 << 23
_UDP_IP_HEADER_BYTES = 28
_HEADER = struct.Struct("!IIq")
_FULL_PAYLOAD = 1472
_PROBE_PAYLOAD = 100
_WINDOWS = 10
_WARM_UP_PROBES = 10
_WARM_UPS = 20
"""At most, until one probe has come through."""
_JITTERS, _LONGEST_JITTERY_S = 100, 5.0
_BURST_S = 0.002
"""So much of a rate's load is sent at once: well below any queue."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One packet that arrived."""

    sequence: int
    sent_ns: int
    received_ns: int


@dataclass(frozen=True, slots=True)
class DirectionMeasurement:
    """What one direction was measured to be; the rate is None where unlimited or not to be told."""

    rate_bps: Estimate | None
    rate_untold: str | None
    """Why the rate of a limited direction could not be told."""
    delay_ms: Estimate
    """The median: a machine that was busy for a moment must not look like a slower link."""
    jitter_ms: float
    """Half the width of the middle 95 % of delays, scaled to the whole of a uniform jitter."""
    loss: Estimate
    reordered: int
    """Dense probes that arrived after a later one."""
    mean_delay_ms: Estimate
    deviation_ms: float
    """The standard deviation of delays."""
    burst_packets: Estimate | None
    """Mean number of dense probes lost one after another; None where hardly any were."""
    duplicated: Estimate
    overtaken: Estimate
    """The share of dense probes that a later one overtook."""
    late_ms: float = 0.0
    """By how much the prober itself was late with one of twenty probes, or more: a machine that busy
    can make a right link look wrong."""
    delay_probe_s: float = 0.0
    """How long each sample of the delay took."""
    loss_probe_s: float = 0.0
    rate_s: float = 0.0
    """How long the rate was measured."""


End = tuple[str | None, str]
"""A namespace (None: the present one) and an address in it."""


class UntoldError(LinkError):
    """A measurement could not be made as it must be, so nothing is told from it."""


class Path:
    """A pair of UDP sockets, sender and receiver, each in its own namespace."""

    def __init__(
        self,
        sender: End,
        receiver: End,
        port: int = 0,
        *,
        corrupting: bool = False,
    ) -> None:
        """`corrupting`: the link flips bits, so that a drop at the receiver need not be this machine's."""
        self._corrupting = corrupting
        with network_namespace(receiver[0]):
            self._receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with network_namespace(sender[0]):
            self._sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._receiver.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)
        except PermissionError:
            # Without root the kernel's own limit holds; what overflows it is noticed.
            self._receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        self._receiver.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._receiver.setsockopt(socket.SOL_SOCKET, _SO_RXQ_OVFL, 1)
        self._sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
        self._receiver.bind((receiver[1], port))
        self._sender.bind((sender[1], 0))
        self._sender.connect(self._receiver.getsockname())
        self._receiver.setblocking(False)
        self._run = 0
        self._overflowed = 0
        self._late_s: list[float] = []
        """How late this process sent what was due, each time that it waited for the moment."""
        self._seen: set[int] = set()
        """What arrived of the present stream: copies count once."""

    def close(self) -> None:
        self._sender.close()
        self._receiver.close()

    def stream(
        self, count: int, payload: int, interval_s: float, grace_s: float, burst: int = 1
    ) -> tuple[list[Arrival], float]:
        """Send packets, `burst` at a time and `interval_s` apart on average; wait for stragglers.

        Returns what arrived, in order, and the seconds that the sending took. Raises UntoldError
        where this machine, not the link, lost packets.
        """
        self._run += 1
        self._seen.clear()
        overflowed_before = self._overflowed
        padding = bytes(payload - _HEADER.size)
        arrivals: list[Arrival] = []
        start_s = next_s = time.monotonic()
        sent = 0
        while sent < count:
            late_s = time.monotonic() - next_s
            if sent and late_s >= 0:
                self._late_s.append(late_s)
            due = min(count, int((time.monotonic() - start_s) / interval_s) + 1)
            # One look at the clock for all that are due: in a virtual machine each is dear.
            sent_ns = time.time_ns()
            while sent < due:
                self._sender.send(_HEADER.pack(self._run, sent, sent_ns) + padding)
                sent += 1
            next_s = start_s + min(count, sent + burst - 1) * interval_s
            self._collect(arrivals, max(0.0, next_s - time.monotonic()))
        sending_s = time.monotonic() - start_s
        deadline_s = time.monotonic() + grace_s
        while len(self._seen) < count and (left_s := deadline_s - time.monotonic()) > 0:
            self._collect(arrivals, left_s)
        lost = self._overflowed - overflowed_before
        if lost > 0 and not self._corrupting:
            raise UntoldError(
                f"this machine was too busy and lost {lost} packets that the link had delivered"
            )
        return arrivals, sending_s

    def late_ms(self) -> float:
        """By how much one of twenty sendings was late, or more, since this was asked last."""
        late_s, self._late_s = sorted(self._late_s), []
        return 1e3 * late_s[len(late_s) * 19 // 20] if late_s else 0.0

    def _collect(self, arrivals: list[Arrival], timeout_s: float) -> None:
        if not select.select((self._receiver,), (), (), timeout_s)[0]:
            return
        while True:
            try:
                data, ancillary, _, _ = self._receiver.recvmsg(2048, 128)
            except BlockingIOError:
                return
            run, sequence, sent_ns = _HEADER.unpack_from(data)
            if run != self._run:
                continue
            self._seen.add(sequence)
            told = {kind: value for _, kind, value in ancillary}
            if _SO_RXQ_OVFL in told:
                (self._overflowed,) = struct.unpack("I", told[_SO_RXQ_OVFL])
            seconds, nanoseconds = struct.unpack("qq", told[_SO_TIMESTAMPNS])
            arrivals.append(Arrival(sequence, sent_ns, seconds * 1_000_000_000 + nanoseconds))


def _rate(path: Path, asked: DirectionConditions, duration_s: float) -> Estimate:
    assert asked.rate_bps is not None
    frame_bits = (_FULL_PAYLOAD + _UDP_IP_HEADER_BYTES + FRAME_HEADER_BYTES) * 8
    # Above the rate even after loss, so that the queue never runs empty.
    offered_bps = 1.15 * asked.rate_bps / max(0.05, 1 - asked.loss)
    # A slow link is saturated long enough for two hundred packets.
    duration_s = max(duration_s, 200 * frame_bits / asked.rate_bps)
    # And long enough for its jitter, within reason.
    duration_s = max(duration_s, min(_LONGEST_JITTERY_S, _JITTERS * asked.deviation_ms / 1e3))
    count = int(offered_bps * duration_s / frame_bits)
    drain_s = (asked.delay_ms + asked.jitter_ms + asked.queue_ms) / 1e3 + 0.5
    interval_s = frame_bits / offered_bps
    burst = max(1, int(_BURST_S / interval_s))
    arrivals, sending_s = path.stream(count, _FULL_PAYLOAD, interval_s, drain_s, burst)
    if count * frame_bits * (1 - asked.loss) / sending_s < 1.03 * asked.rate_bps:
        raise UntoldError(
            f"this machine could only send {format_rate(count * frame_bits / sending_s)}, which does "
            f"not fill a link of {format_rate(asked.rate_bps)}: its rate cannot be told"
        )
    if len(arrivals) < 10 * _WINDOWS:
        raise UntoldError(
            f"only {len(arrivals)} of {count} packets arrived: no rate can be told from them"
        )
    return tell_rate(arrivals, asked.deviation_ms)


def tell_rate(arrivals: Sequence[Arrival], deviation_ms: float) -> Estimate:
    """What full packets that saturate a direction tell of its rate, in bit/s; a hundred at least.

    Jitter moves the first and the last of them by its deviation, and empties queues that keep the order.
    """
    frame_bits = (_FULL_PAYLOAD + _UDP_IP_HEADER_BYTES + FRAME_HEADER_BYTES) * 8
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
    edges = 2 * math.sqrt(2) * Z_95 * deviation_ms / 1e3 / total_s
    half = math.hypot((spread.high - spread.low) / 2, edges * value)
    return Estimate(value, value - half, value + half, len(arrivals))


def _probe(
    path: Path, asked: DirectionConditions, probes: int, patience_s: float
) -> DirectionMeasurement:
    """Measure all that single packets tell of a direction; that is all but its rate."""
    probe_bytes = _PROBE_PAYLOAD + _UDP_IP_HEADER_BYTES
    transmission_ms = asked.transmission_ms(probe_bytes)
    held_ms = asked.delay_ms + asked.jitter_ms
    grace_s = held_ms / 1e3 + 0.3
    # A link that keeps the order delays a packet behind a later one: delay is told from probes
    # too far apart to meet, loss from those and from denser ones that still overflow no queue.
    spread = 2.2 if asked.distribution == "uniform" else 8.0
    spaced_s = max(2.0, 10 * transmission_ms, spread * asked.jitter_ms) / 1e3
    dense_s = max(2.0, 2 * transmission_ms, 2 * held_ms / asked.limit_packets) / 1e3
    spaced = max(100, probes // 5)
    probes = max(probes, min(_wanted(asked), int(patience_s / dense_s)))
    # The first packets resolve addresses and fault pages in; they are not measured.
    # An address is resolved across both ways, of which the other may be much slower.
    for _ in range(_WARM_UPS):
        if path.stream(_WARM_UP_PROBES, _PROBE_PAYLOAD, spaced_s, grace_s)[0] or not asked.up:
            break
    arrivals, _ = path.stream(spaced, _PROBE_PAYLOAD, spaced_s, grace_s)
    if not asked.up:
        return _silent(len(arrivals), spaced)
    if len(arrivals) < 20:
        raise LinkError(f"only {len(arrivals)} of {spaced} probes arrived: no delay can be told")
    dense, _ = path.stream(probes, _PROBE_PAYLOAD, dense_s, grace_s)
    found = tell(asked, arrivals, spaced, dense, probes)
    return replace(found, delay_probe_s=spaced_s, loss_probe_s=dense_s)


def _wanted(asked: DirectionConditions) -> int:
    """How many probes tell all shares that a direction has."""
    burst = asked.mean_burst_packets if asked.loss_model else 1.0
    shares = ((asked.undelivered, burst), (asked.duplicate, 1.0), (asked.reorder, 1.0))
    return max((share_samples(p, b) for p, b in shares if 0 < p < 1), default=0)


def tell(
    asked: DirectionConditions,
    arrivals: Sequence[Arrival],
    spaced: int,
    dense: Sequence[Arrival],
    probes: int,
) -> DirectionMeasurement:
    """What arrived of `spaced` probes far apart, and of `probes` denser ones, tells of a direction."""
    transmission_ms = asked.transmission_ms(_PROBE_PAYLOAD + _UDP_IP_HEADER_BYTES)
    everything = [*_distinct(arrivals), *_distinct(dense)]
    lost = spaced + probes - len(everything)
    delays_ms = [(a.received_ns - a.sent_ns) / 1e6 - transmission_ms for a in arrivals]
    cuts = statistics.quantiles(delays_ms, n=40)
    later_first = sum(
        later.sequence < earlier.sequence for earlier, later in itertools.pairwise(dense)
    )
    copies = len(arrivals) + len(dense) - len(everything)
    return DirectionMeasurement(
        rate_bps=None,
        rate_untold=None,
        delay_ms=median_interval(delays_ms),
        jitter_ms=(cuts[-1] - cuts[0]) / 2 / 0.95,
        loss=wilson(lost, spaced + probes),
        reordered=later_first,
        mean_delay_ms=mean_interval(delays_ms),
        deviation_ms=statistics.pstdev(delays_ms),
        burst_packets=_bursts(dense, probes),
        duplicated=wilson(copies, len(everything)),
        overtaken=wilson(later_first, max(1, len(dense))),
    )


def _silent(arrived: int, sent: int) -> DirectionMeasurement:
    """A dead zone has no delay: only that nothing came through."""
    nothing = Estimate(0.0, 0.0, 0.0, 0)
    loss = wilson(sent - arrived, sent)
    return DirectionMeasurement(None, None, nothing, 0, loss, 0, nothing, 0, None, nothing, nothing)


def _distinct(arrivals: Sequence[Arrival]) -> set[int]:
    return {arrival.sequence for arrival in arrivals}


_FEWEST_BURSTS = 8


def _bursts(arrivals: Sequence[Arrival], sent: int) -> Estimate | None:
    """The mean length of runs of lost packets; its interval is a geometric distribution's."""
    arrived = sorted(_distinct(arrivals))
    edges = itertools.pairwise([-1, *arrived, sent])
    lengths = [later - earlier - 1 for earlier, later in edges if later - earlier > 1]
    if len(lengths) < _FEWEST_BURSTS:
        return None
    mean = statistics.fmean(lengths)
    half = Z_95 * math.sqrt(mean * max(mean - 1, 0.05) / len(lengths))
    return Estimate(mean, max(1.0, mean - half), mean + half, len(lengths))


def measure_directions(
    directions: Sequence[tuple[Path, DirectionConditions]],
    *,
    probes: int = 1000,
    rate_duration_s: float = 1.0,
    patience_s: float = 0.0,
) -> list[DirectionMeasurement]:
    """Measure directions that were asked to be so; their links must otherwise be idle.

    All are probed at the same time, then filled one after the other. Delay is net of the time that
    the rate takes to send a probe. Of a lossy direction `patience_s` may be spent on more probes, as
    many as tell its loss.

    Raises:
        LinkError: too little arrives to tell.
    """
    with ThreadPoolExecutor(len(directions)) as pool:
        probed = list(pool.map(lambda one: _probe(one[0], one[1], probes, patience_s), directions))
    measured = []
    for (path, asked), found in zip(directions, probed, strict=True):
        probing_ms = path.late_ms()
        if asked.rate_bps is not None:
            try:
                rate = _rate(path, asked, rate_duration_s)
                frame_bits = (_FULL_PAYLOAD + _UDP_IP_HEADER_BYTES + FRAME_HEADER_BYTES) * 8
                rate_s = rate.samples * frame_bits / rate.value
                found = replace(found, rate_bps=rate, rate_s=rate_s)
            except UntoldError as error:
                found = replace(found, rate_untold=str(error))
        measured.append(replace(found, late_ms=max(probing_ms, path.late_ms())))
    return measured
