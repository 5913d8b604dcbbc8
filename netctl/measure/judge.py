"""One judge of all measurements, with two stated error rates.

A link that is as asked is refused at most once in a hundred; one that is off by what matters (5 % of
rate, the greater of 3 ms and 10 % of delay, one point of a share) is accepted at most five times in a
hundred. Where a sample can promise neither, the judgement is that it is inconclusive, and how many
samples would do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from netctl.measure.statistics import Z_95, Estimate, clustered, wilson

Outcome = Literal["as asked", "not as asked", "inconclusive"]

RATE_BIAS, RATE_DIFFERENCE = 0.02, 0.05
DELAY_BIAS_MS, DELAY_BIAS = 1.0, 0.02
DELAY_DIFFERENCE_MS, DELAY_DIFFERENCE = 3.0, 0.10
DEVIATION_BIAS_MS, DEVIATION_BIAS = 0.5, 0.15
SHARE_DIFFERENCE = 0.01

_REFUSING_Z = 3.29
"""Each quantity of a right link is refused once in a thousand: some eight of them make up a link."""
_ACCEPTING_Z = 1.645
_PLANNED_Z = _ACCEPTING_Z + 2.33
"""With so many standard errors between them, 99 right ones in a hundred are accepted."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is to be said of a quantity; where nothing, how many samples would tell."""

    outcome: Outcome
    needed_samples: int | None = None


def judge_value(asked: float, found: Estimate, *, bias: float, difference: float) -> Judgement:
    """Judge a mean or median by its 95 % interval.

    `bias` is what measuring itself may be wrong by, which is not held against the link; `difference`
    is what must not pass.
    """
    error = (found.high - found.low) / 2 / Z_95
    off = abs(found.value - asked)
    if off - _REFUSING_Z * error > bias:
        return Judgement("not as asked")
    if off + _ACCEPTING_Z * error < difference:
        return Judgement("as asked")
    finer = (difference - bias) / _PLANNED_Z
    needed = math.ceil(found.samples * max(1.0, (error / finer) ** 2))
    return Judgement("inconclusive", max(needed, found.samples + 1))


def judge_share(asked: float, found: Estimate, burst: float = 1.0) -> Judgement:
    """Judge a share by Wilson's intervals; what comes in bursts of a mean length tells less."""
    if asked in (0.0, 1.0) and found.value != asked:
        return Judgement("not as asked")
    wide = clustered(found.value, found.samples, burst, z=_REFUSING_Z)
    if not wide.low <= asked <= wide.high:
        return Judgement("not as asked")
    narrow = clustered(found.value, found.samples, burst, z=_ACCEPTING_Z)
    if asked - SHARE_DIFFERENCE < narrow.low and narrow.high < asked + SHARE_DIFFERENCE:
        return Judgement("as asked")
    return Judgement("inconclusive", max(share_samples(asked, burst), found.samples + 1))


def share_samples(asked: float, burst: float = 1.0) -> int:
    """How many samples tell a right share from one that is off by what matters."""
    # The share that must not pass spreads more where it is the larger.
    spread = max(p * (1 - p) for p in (asked, min(1.0, asked + SHARE_DIFFERENCE)))
    single = math.ceil(spread * (_PLANNED_Z / SHARE_DIFFERENCE) ** 2)
    fewest = next(
        n for n in range(100, 10_000, 50) if wilson(0, n, _ACCEPTING_Z).high < SHARE_DIFFERENCE
    )
    return max(fewest, math.ceil(single * max(1.0, 2 * burst - 1)))
