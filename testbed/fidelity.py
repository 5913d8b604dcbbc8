"""Asked against measured: does a link do what it was asked to?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from airloom.units import format_rate
from netctl.conditions.link import DirectionConditions
from netctl.measure.statistics import clustered

RATE_TOLERANCE = 0.05
DELAY_TOLERANCE_MS = 2.0


@dataclass(frozen=True, slots=True)
class Check:
    """One asked quantity of one direction."""

    direction: str
    quantity: str
    asked: str
    measured: str
    band: str
    ok: bool


def check_direction(
    direction: str, asked: DirectionConditions, measured: dict[str, Any]
) -> list[Check]:
    """Compare a direction with `netctl measure`'s result: rate ±5 %, delay ±2 ms, loss in its interval.

    The delay is the median where delays are symmetric, else the mean. Losses in bursts tell less than
    as many single ones: their interval is that of fewer.
    """
    checks: list[Check] = []
    loss = _loss(direction, asked, measured["loss"])
    if not asked.up:
        return [loss]
    if asked.rate_bps is not None:
        told = measured["rate_bps"]
        rate = math.nan if told is None else told["value"]
        checks.append(
            Check(
                direction,
                "rate",
                format_rate(asked.rate_bps),
                f"not told: {measured['rate_untold']}" if told is None else format_rate(rate),
                f"±{RATE_TOLERANCE:.0%}",
                abs(rate - asked.rate_bps) <= RATE_TOLERANCE * asked.rate_bps,
            )
        )
    told = measured["delay_ms" if asked.delay_is_symmetric else "mean_delay_ms"]
    delay_ms, expected_ms = told["value"], asked.mean_delay_ms
    checks.append(
        Check(
            direction,
            "delay",
            f"{expected_ms:.4g} ms",
            f"{delay_ms:.2f} ms",
            f"±{DELAY_TOLERANCE_MS:g} ms",
            abs(delay_ms - expected_ms) <= DELAY_TOLERANCE_MS,
        )
    )
    return [*checks, loss]


def _loss(direction: str, asked: DirectionConditions, measured: dict[str, Any]) -> Check:
    # A probe with a flipped bit is lost to whoever checks its sum.
    expected = asked.undelivered
    value, low, high = measured["value"], measured["low"], measured["high"]
    if asked.loss_model is not None and asked.up:
        interval = clustered(value, measured["samples"], asked.mean_burst_packets)
        low, high = interval.low, interval.high
    return Check(
        direction,
        "loss",
        f"{expected:.2%}",
        f"{value:.2%}",
        f"95 %: {low:.2%} to {high:.2%}",
        low <= expected <= high,
    )
