"""The fidelity certificate: what a link was asked to be, what it was measured to be, and the verdict.

`netctl.measure.judge` says of each quantity whether it is as asked, not as asked or not told by the
sample; what measuring itself may be wrong by is 2 % of the rate, the greater of 1 ms and 2 % of the
delay, and the greater of 0.5 ms and 15 % of the deviation of delays.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from netctl.conditions.jitter import kurtosis
from netctl.conditions.link import DirectionConditions, LinkConditions
from netctl.measure.judge import (
    DELAY_BIAS,
    DELAY_BIAS_MS,
    DELAY_DIFFERENCE,
    DELAY_DIFFERENCE_MS,
    DEVIATION_BIAS,
    DEVIATION_BIAS_MS,
    RATE_BIAS,
    RATE_DIFFERENCE,
    SHARE_DIFFERENCE,
    Judgement,
    Outcome,
    judge_share,
    judge_value,
)
from netctl.measure.prober import DirectionMeasurement
from netctl.measure.statistics import Estimate

_Z = 3.29
"""Bursts are judged by an interval that a right link misses once in a thousand."""


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
    outcome: Outcome
    remark: str = ""
    more_s: float | None = None
    """How long measuring would have to take where it is inconclusive."""


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
        """Whether everything is as asked, and certainly so."""
        return self.outcome == "as asked"

    @property
    def outcome(self) -> Outcome:
        """The worst of all."""
        found = {verdict.outcome for verdict in self.verdicts}
        worst: Sequence[Outcome] = ("not as asked", "inconclusive")
        return next((one for one in worst if one in found), "as asked")

    def as_dict(self) -> dict[str, Any]:
        verdicts = [{**asdict(v), "passed": v.outcome == "as asked"} for v in self.verdicts]
        whole = {"verdicts": verdicts, "outcome": self.outcome, "passed": self.passed}
        return {**asdict(self), **whole}

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
                f"{v.unit}  band {v.band}  {_SHOWN[v.outcome]} {v.remark}".rstrip()
            )
            if v.more_s is not None:
                lines.append(
                    f"           {v.quantity} would be told by {v.more_s:.0f} s of measuring"
                )
        lines.append(_SHOWN[self.outcome].upper())
        return "\n".join(lines)


_SHOWN: dict[Outcome, str] = {
    "as asked": "pass", "not as asked": "FAIL", "inconclusive": "inconclusive",
}  # fmt: skip


def rate_agrees(asked_bps: float, found_bps: float) -> bool:
    """Whether a rate that another tool told is as asked, but for what measuring may be wrong by."""
    return abs(found_bps / asked_bps - 1) <= RATE_BIAS


def plainly(agrees: bool) -> Outcome:
    """The outcome of what is counted, and not estimated."""
    return "as asked" if agrees else "not as asked"


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
    """Judge one direction."""
    verdicts: list[Verdict] = []
    if not asked.up:
        return [share_verdict(way, "loss", 1.0, found.loss, found.loss_probe_s)]
    if asked.rate_bps is not None:
        verdicts.append(rate_verdict(way, asked.rate_bps, found))
    # A median is not moved by a busy moment of this machine; a skewed distribution needs the mean.
    delay = found.delay_ms if asked.delay_is_symmetric else found.mean_delay_ms
    if not asked.slots:
        net = replace(
            delay,
            value=delay.value - baseline_ms,
            low=delay.low - baseline_ms,
            high=delay.high - baseline_ms,
        )
        verdicts.append(delay_verdict(way, "delay", asked, net, found.delay_probe_s))
    if asked.jitter_ms:
        verdicts.append(_deviation_verdict(way, asked, found))
    verdicts.append(loss_verdict(way, "loss", asked, found.loss, found.loss_probe_s))
    if asked.loss_model is not None and found.burst_packets is not None:
        burst = found.burst_packets
        half = _Z / 1.96 * (burst.high - burst.value) + 0.05
        verdicts.append(
            Verdict(
                way, "burst", "packets", asked.mean_burst_packets, burst.value, burst.low,
                burst.high, "interval",
                plainly(abs(burst.value - asked.mean_burst_packets) <= half),
            )
        )  # fmt: skip
    if asked.duplicate:
        # A copy is lost as easily as the packet, and counts where both arrive.
        lost = asked.undelivered
        both = asked.duplicate * (1 - lost) ** 2
        some = 1 - lost + asked.duplicate * (1 - lost) * lost
        verdicts.append(
            share_verdict(way, "duplicates", both / some, found.duplicated, found.loss_probe_s)
        )
    if asked.reorder:
        expected = asked.reorder * (1 - asked.reorder)
        verdicts.append(
            share_verdict(way, "overtaken", expected, found.overtaken, found.loss_probe_s)
        )
    elif asked.in_order:
        verdicts.append(
            Verdict(
                way, "reordered", "packets", 0, found.reordered, None, None, "none",
                plainly(found.reordered == 0),
            )
        )  # fmt: skip
    return verdicts


def rate_verdict(way: str, asked_bps: float, found: DirectionMeasurement) -> Verdict:
    """Judge a rate; one that could not be told is told by nothing."""
    band, rate = f"±{RATE_DIFFERENCE:.0%}", found.rate_bps
    if rate is None:
        words = found.rate_untold or ""
        return Verdict(
            way, "rate", "bit/s", asked_bps, None, None, None, band, "inconclusive", words
        )
    judged = judge_value(
        asked_bps, rate, bias=RATE_BIAS * asked_bps, difference=RATE_DIFFERENCE * asked_bps
    )
    more_s = _seconds(judged, found.rate_s / max(1, rate.samples))
    return Verdict(
        way, "rate", "bit/s", asked_bps, rate.value, rate.low, rate.high, band, judged.outcome,
        more_s=more_s,
    )  # fmt: skip


def delay_verdict(
    way: str,
    quantity: str,
    asked: DirectionConditions,
    found: Estimate,
    probe_s: float = 0.0,
    doubt_ms: float = 0.0,
) -> Verdict:
    """Judge a typical delay: the median where delays are symmetric, else the mean.

    `doubt_ms` is what measuring may be wrong by besides, where no baseline was taken off.
    """
    expected_ms = asked.mean_delay_ms
    bias_ms = max(DELAY_BIAS_MS, DELAY_BIAS * expected_ms) + doubt_ms
    difference_ms = max(DELAY_DIFFERENCE_MS, DELAY_DIFFERENCE * expected_ms)
    judged = judge_value(expected_ms, found, bias=bias_ms, difference=difference_ms)
    return Verdict(
        way, quantity, "ms", expected_ms, found.value, found.low, found.high,
        f"±{difference_ms:.3g} ms", judged.outcome, more_s=_seconds(judged, probe_s),
    )  # fmt: skip


def _deviation_verdict(
    way: str, asked: DirectionConditions, found: DirectionMeasurement
) -> Verdict:
    expected_ms, samples = asked.deviation_ms, found.mean_delay_ms.samples
    # The standard error of a standard deviation, by the distribution's own kurtosis.
    error_ms = expected_ms * math.sqrt((kurtosis(asked.distribution) - 1) / (4 * samples))
    half = 1.96 * error_ms
    estimate = Estimate(
        found.deviation_ms, found.deviation_ms - half, found.deviation_ms + half, samples
    )
    bias_ms = max(DEVIATION_BIAS_MS, DEVIATION_BIAS * expected_ms)
    judged = judge_value(expected_ms, estimate, bias=bias_ms, difference=2 * bias_ms)
    return Verdict(
        way, "deviation", "ms", expected_ms, estimate.value, estimate.low, estimate.high,
        f"±{2 * bias_ms:.3g} ms", judged.outcome, more_s=_seconds(judged, found.delay_probe_s),
    )  # fmt: skip


def loss_verdict(
    way: str, quantity: str, asked: DirectionConditions, found: Estimate, probe_s: float = 0.0
) -> Verdict:
    """Judge the share of packets that did not arrive whole.

    With a flipped bit the checksum is wrong: whoever receives it never sees it.
    """
    burst = asked.mean_burst_packets if asked.loss_model and asked.up else 1.0
    return share_verdict(way, quantity, asked.undelivered, found, probe_s, burst)


def share_verdict(
    way: str,
    quantity: str,
    asked: float,
    found: Estimate,
    probe_s: float = 0.0,
    burst: float = 1.0,
) -> Verdict:
    """Judge a share of packets."""
    judged = judge_share(asked, found, burst)
    return Verdict(
        way, quantity, "share", asked, found.value, found.low, found.high,
        f"±{SHARE_DIFFERENCE:.0%}", judged.outcome, more_s=_seconds(judged, probe_s),
    )  # fmt: skip


def _seconds(judged: Judgement, sample_s: float) -> float | None:
    if judged.needed_samples is None or not sample_s:
        return None
    return judged.needed_samples * sample_s
