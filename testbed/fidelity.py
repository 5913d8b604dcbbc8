"""Asked against measured: does a link do what it was asked to?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from airloom.units import format_rate
from netctl.conditions.link import DirectionConditions
from netctl.json_data import from_python
from netctl.measure.certificate import Verdict, delay_verdict, loss_verdict, rate_verdict
from netctl.measure.judge import Outcome
from netctl.measure.prober import DirectionMeasurement

DELAY_DOUBT_MS = 1.0
"""What delays measured beside a run may be wrong by: no baseline of the machine is taken off."""


@dataclass(frozen=True, slots=True)
class Check:
    """One asked quantity of one direction."""

    direction: str
    quantity: str
    asked: str
    measured: str
    band: str
    ok: bool
    """False where it is not as asked; what the sample cannot tell is not held against the link."""
    outcome: Outcome
    more_s: float | None
    """How long measuring would have to take where it is inconclusive."""


def check_direction(
    direction: str, asked: DirectionConditions, measured: dict[str, Any]
) -> list[Check]:
    """Compare a direction with `netctl measure`'s result, by the judge of all certificates.

    The delay is the median where delays are symmetric, else the mean. Losses in bursts tell less than
    as many single ones: their interval is that of fewer.
    """
    found = from_python(DirectionMeasurement, measured)
    loss = _share(loss_verdict(direction, "loss", asked, found.loss, found.loss_probe_s))
    if not asked.up:
        return [loss]
    checks: list[Check] = []
    if asked.rate_bps is not None:
        rate = rate_verdict(direction, asked.rate_bps, found)
        told = f"not told: {rate.remark}" if rate.measured is None else format_rate(rate.measured)
        checks.append(_check(rate, format_rate(asked.rate_bps), told))
    typical = found.delay_ms if asked.delay_is_symmetric else found.mean_delay_ms
    delay = delay_verdict(direction, "delay", asked, typical, found.delay_probe_s, DELAY_DOUBT_MS)
    checks.append(_check(delay, f"{delay.asked:.4g} ms", f"{typical.value:.2f} ms"))
    return [*checks, loss]


def _share(verdict: Verdict) -> Check:
    return _check(verdict, f"{verdict.asked:.2%}", f"{verdict.measured:.2%}")


def _check(verdict: Verdict, asked: str, measured: str) -> Check:
    band = verdict.band
    if verdict.outcome == "inconclusive":
        more = "" if verdict.more_s is None else f" before {verdict.more_s:.0f} s of measuring"
        band += f": inconclusive{more}"
    return Check(
        verdict.way,
        verdict.quantity,
        asked,
        measured,
        band,
        verdict.outcome != "not as asked",
        verdict.outcome,
        verdict.more_s,
    )
