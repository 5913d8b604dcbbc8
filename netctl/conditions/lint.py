"""What is likely wrong with conditions, explained: bandwidth-delay product, bursts, segments, MTU, queues."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from airloom.units import format_rate
from netctl.conditions.jitter import lowest
from netctl.conditions.link import FRAME_HEADER_BYTES, DirectionConditions, LinkConditions

_NETEM_DEFAULT_LIMIT = 1000
_TCP_DEFAULT_WINDOW_BYTES = 4 << 20
"""The largest send buffer that Linux gives a connection by default (net.ipv4.tcp_wmem)."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that its author may not have meant."""

    way: str
    rule: str
    severity: Literal["warning", "note"]
    message: str


def lint(link: LinkConditions) -> list[Finding]:
    """Look at both directions; a round trip takes both delays."""
    rtt_ms = link.uplink.mean_delay_ms + link.downlink.mean_delay_ms
    return [
        *_direction("uplink", link.uplink, rtt_ms),
        *_direction("downlink", link.downlink, rtt_ms),
    ]


def _direction(way: str, c: DirectionConditions, rtt_ms: float) -> list[Finding]:
    found = []

    def say(rule: str, severity: Literal["warning", "note"], message: str) -> None:
        found.append(Finding(way, rule, severity, message))

    frame = c.mtu_bytes + FRAME_HEADER_BYTES
    if c.rate_bps is not None:
        product = c.rate_bps * rtt_ms / 8e3
        limit = c.queue_limit_bytes
        if limit is not None and limit < 2 * frame:
            say(
                "queue", "warning",
                f"the queue holds {limit} bytes, less than two frames of {frame}: any burst is lost",
            )  # fmt: skip
        elif limit is not None and c.queue_discipline == "drop-tail":
            drain_ms = limit * 8e3 / c.rate_bps
            if limit < product / 10 and product > 20 * frame:
                say(
                    "queue", "warning",
                    f"the queue of {limit} bytes is less than a tenth of the bandwidth-delay product "
                    f"({product:.0f} bytes): one TCP connection will not fill "
                    f"{format_rate(c.rate_bps)}",
                )  # fmt: skip
            if drain_ms > 1000 and drain_ms > 5 * max(rtt_ms, 1):
                say(
                    "bufferbloat", "note",
                    f"a full queue takes {drain_ms / 1e3:.1f} s to drain, beside a round trip of "
                    f"{rtt_ms:.0f} ms; say so if that is meant, else shorten it or use CoDel",
                )  # fmt: skip
        if product > _TCP_DEFAULT_WINDOW_BYTES:
            say(
                "window", "warning",
                f"the bandwidth-delay product is {product / 1e6:.1f} MB, more than Linux lets one TCP "
                "connection have under way (net.ipv4.tcp_wmem): raise that, or use several",
            )  # fmt: skip
        if c.limit_packets > _NETEM_DEFAULT_LIMIT:
            say(
                "limit", "note",
                f"{c.limit_packets} packets are under way or queued: netem's default limit of "
                f"{_NETEM_DEFAULT_LIMIT} would drop them; here it is set to fit",
            )  # fmt: skip
        frame_ms = frame * 8e3 / c.rate_bps
        if frame_ms > 100:
            say(
                "serialisation", "note",
                f"one full frame takes {frame_ms:.0f} ms to send; a smaller mtu lets short messages "
                "through sooner",
            )  # fmt: skip
        if c.loss > 0 and c.loss_model is None and rtt_ms > 0:
            # Mathis et al. 1997: what loss alone lets one Reno-like connection have.
            ceiling = (c.mtu_bytes - 52) * 8e3 / rtt_ms * 1.22 / c.loss**0.5
            if ceiling < c.rate_bps / 2:
                say(
                    "loss", "warning",
                    f"with {c.loss:.2%} loss and {rtt_ms:.0f} ms round trip one TCP connection gets some "
                    f"{format_rate(ceiling)} (Mathis et al. 1997), not {format_rate(c.rate_bps)}",
                )  # fmt: skip
    if c.jitter_ms and not c.in_order:
        say(
            "reordering", "warning",
            f"jitter of {c.jitter_ms:g} ms may reorder packets: TCP takes that for loss and slows down",
        )  # fmt: skip
    if c.delay_ms + lowest(c.distribution) * c.jitter_ms < 0:
        say(
            "jitter", "note",
            f"a deviation of {c.jitter_ms:g} ms around {c.delay_ms:g} ms cuts delays off at zero: their "
            "mean will be higher",
        )  # fmt: skip
    if c.mtu_bytes < 1280:
        say("mtu", "warning", f"an MTU of {c.mtu_bytes} is below the 1280 bytes that IPv6 needs")
    elif c.mtu_bytes > 1500:
        say(
            "mtu", "warning",
            f"packets of up to {c.mtu_bytes} bytes: check that segmentation offload is off, or they share "
            "one loss draw and leave in one burst",
        )  # fmt: skip
    return found
