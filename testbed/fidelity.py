"""Asked against measured: does a link do what it was asked to?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from netctl.conditions import DirectionConditions
from netctl.units import format_rate

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
    """Compare a direction with `netctl measure`'s result: rate ±5 %, delay ±2 ms, loss in its interval."""
    checks = []
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
    delay = measured["delay_ms"]["value"]
    checks.append(
        Check(
            direction,
            "delay",
            f"{asked.delay_ms:g} ms",
            f"{delay:.2f} ms",
            f"±{DELAY_TOLERANCE_MS:g} ms",
            abs(delay - asked.delay_ms) <= DELAY_TOLERANCE_MS,
        )
    )
    loss = measured["loss"]
    checks.append(
        Check(
            direction,
            "loss",
            f"{asked.loss:.2%}",
            f"{loss['value']:.2%}",
            f"95 %: {loss['low']:.2%} to {loss['high']:.2%}",
            loss["low"] <= asked.loss <= loss["high"],
        )
    )
    return checks
