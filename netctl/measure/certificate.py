"""The fidelity certificate: what a link was asked to be, what it was measured to be, and the verdict.

The bands: rate within 2 %; delay within the greater of 1 ms and 2 %; shares (loss, duplicates,
overtaken) by Wilson's interval; bursts by the interval of their mean length; the deviation of delays
within the greater of 0.5 ms and 15 %.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from netctl.conditions.link import DirectionConditions, LinkConditions
from netctl.measure.prober import DirectionMeasurement
from netctl.measure.statistics import Estimate, clustered

RATE_BAND = 0.02
DELAY_BAND_MS, DELAY_BAND = 1.0, 0.02
DEVIATION_BAND_MS, DEVIATION_BAND = 0.5, 0.15
_Z = 3.29
"""Shares are judged by an interval that a right link misses once in a thousand."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One quantity of one direction."""

    way: str
    quantity: str
    unit: str
    asked: float
    measured: float | None
    low: float | None
    """The measurement's 95 % interval."""
    high: float | None
    band: str
    passed: bool
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Certificate:
    """Every verdict on a link, and where and how it was measured."""

    verdicts: tuple[Verdict, ...]
    backend: str
    kernel: str
    machine: str
    baseline_ms: float
    """One-way delay of this machine's loopback by the same prober; subtracted from every delay."""
    late_ms: float = 0.0
    """As in a direction's measurement, of the worse one."""

    @property
    def passed(self) -> bool:
        return all(verdict.passed for verdict in self.verdicts)

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed}

    def text(self) -> str:
        """For people: a line for each quantity."""
        lines = [
            f"{self.backend} on Linux {self.kernel} ({self.machine}); baseline "
            f"{self.baseline_ms:.3f} ms subtracted; the prober itself late by {self.late_ms:.3f} ms"
        ]
        for v in self.verdicts:
            measured = "not told" if v.measured is None else f"{v.measured:.6g}"
            interval = "" if v.low is None else f" [{v.low:.6g}, {v.high:.6g}]"
            lines.append(
                f"  {v.way:8} {v.quantity:13} asked {v.asked:<10.6g} measured {measured}{interval} "
                f"{v.unit}  band {v.band}  {'pass' if v.passed else 'FAIL'} {v.remark}".rstrip()
            )
        lines.append("PASS" if self.passed else "FAIL")
        return "\n".join(lines)


def rate_agrees(asked_bps: float, found_bps: float) -> bool:
    """Whether a rate is in its band."""
    return abs(found_bps / asked_bps - 1) <= RATE_BAND


def certify(
    asked: LinkConditions,
    measured: Mapping[str, DirectionMeasurement],
    *,
    backend: str,
    baseline_ms: float,
    others: Sequence[Verdict] = (),
) -> Certificate:
    """Judge both directions; `measured` has `uplink` and `downlink`, `others` what other tools say."""
    verdicts = [
        verdict
        for way, conditions in (("uplink", asked.uplink), ("downlink", asked.downlink))
        for verdict in judge(way, conditions, measured[way], baseline_ms)
    ]
    return Certificate(
        (*verdicts, *others), backend, platform.release(), f"{os.cpu_count()} × {platform.machine()}",
        baseline_ms, max(found.late_ms for found in measured.values()),
    )  # fmt: skip


def judge(
    way: str, asked: DirectionConditions, found: DirectionMeasurement, baseline_ms: float = 0.0
) -> list[Verdict]:
    """Judge one direction by the bands."""
    verdicts: list[Verdict] = []
    if not asked.up:
        return [share_verdict(way, "loss", 1.0, found.loss)]
    if asked.rate_bps is not None:
        rate = found.rate_bps
        verdicts.append(
            Verdict(
                way, "rate", "bit/s", asked.rate_bps,
                None if rate is None else rate.value,
                None if rate is None else rate.low,
                None if rate is None else rate.high,
                f"±{RATE_BAND:.0%}",
                rate is not None and rate_agrees(asked.rate_bps, rate.value),
                found.rate_untold or "",
            )
        )  # fmt: skip
    # A median is not moved by a busy moment of this machine; a skewed distribution needs the mean.
    delay = found.delay_ms if asked.delay_is_symmetric else found.mean_delay_ms
    if not asked.slots:
        low_ms, high_ms = delay.low - baseline_ms, delay.high - baseline_ms
        verdicts.append(
            delay_verdict(way, "delay", asked, delay.value - baseline_ms, low_ms, high_ms)
        )
    if asked.jitter_ms:
        band_ms = max(DEVIATION_BAND_MS, DEVIATION_BAND * asked.deviation_ms)
        verdicts.append(
            Verdict(
                way, "deviation", "ms", asked.deviation_ms, found.deviation_ms, None, None,
                f"±{band_ms:.3g} ms", abs(found.deviation_ms - asked.deviation_ms) <= band_ms,
            )
        )  # fmt: skip
    verdicts.append(loss_verdict(way, "loss", asked, found.loss))
    if asked.loss_model is not None and found.burst_packets is not None:
        burst = found.burst_packets
        half = _Z / 1.96 * (burst.high - burst.value) + 0.05
        verdicts.append(
            Verdict(
                way, "burst", "packets", asked.mean_burst_packets, burst.value, burst.low,
                burst.high, "interval", abs(burst.value - asked.mean_burst_packets) <= half,
            )
        )  # fmt: skip
    if asked.duplicate:
        # A copy is lost as easily as the packet, and counts where both arrive.
        lost = asked.undelivered
        both = asked.duplicate * (1 - lost) ** 2
        some = 1 - lost + asked.duplicate * (1 - lost) * lost
        verdicts.append(share_verdict(way, "duplicates", both / some, found.duplicated))
    if asked.reorder:
        expected = asked.reorder * (1 - asked.reorder)
        verdicts.append(share_verdict(way, "overtaken", expected, found.overtaken))
    elif asked.in_order:
        verdicts.append(
            Verdict(
                way, "reordered", "packets", 0, found.reordered, None, None, "none",
                found.reordered == 0,
            )
        )  # fmt: skip
    return verdicts


def delay_verdict(
    way: str,
    quantity: str,
    asked: DirectionConditions,
    found_ms: float,
    low_ms: float | None = None,
    high_ms: float | None = None,
) -> Verdict:
    """Judge a typical delay: the median where delays are symmetric, else the mean."""
    expected_ms = asked.mean_delay_ms
    band_ms = max(DELAY_BAND_MS, DELAY_BAND * expected_ms)
    passed = abs(found_ms - expected_ms) <= band_ms
    band = f"±{band_ms:.3g} ms"
    return Verdict(way, quantity, "ms", expected_ms, found_ms, low_ms, high_ms, band, passed)


def loss_verdict(way: str, quantity: str, asked: DirectionConditions, found: Estimate) -> Verdict:
    """Judge the share of packets that did not arrive whole.

    With a flipped bit the checksum is wrong: whoever receives it never sees it.
    """
    burst = asked.mean_burst_packets if asked.loss_model else 1.0
    return share_verdict(way, quantity, asked.undelivered, found, burst)


def share_verdict(
    way: str, quantity: str, asked: float, found: Estimate, burst: float = 1.0
) -> Verdict:
    """A share is right where it lies in Wilson's interval."""
    wide = clustered(found.value, found.samples, burst, z=_Z)
    # An asked share of nothing is nothing.
    ok = wide.low <= asked <= wide.high and (asked > 0 or found.value == 0)
    return Verdict(
        way, quantity, "share", asked, found.value, found.low, found.high,
        f"[{wide.low:.4f}, {wide.high:.4f}]", ok,
    )  # fmt: skip
