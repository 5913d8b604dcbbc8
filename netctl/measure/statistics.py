"""Estimates with 95 % confidence intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

Z_95 = 1.959964


@dataclass(frozen=True, slots=True)
class Estimate:
    """A measured value, its interval, and from how many samples."""

    value: float
    low: float
    high: float
    samples: int


def wilson(successes: int, trials: int, z: float = Z_95) -> Estimate:
    """Wilson's score interval of a proportion (Wilson 1927)."""
    if trials == 0:
        return Estimate(math.nan, 0.0, 1.0, 0)
    p = successes / trials
    denominator = 1 + z * z / trials
    centre = (p + z * z / (2 * trials)) / denominator
    half = z * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials)) / denominator
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == trials else min(1.0, centre + half)
    return Estimate(p, low, high, trials)


def clustered(share: float, trials: int, burst: float, z: float = Z_95) -> Estimate:
    """Wilson's interval where successes come in bursts of this mean length: they tell less."""
    fewer = max(1, round(trials / max(1.0, 2 * burst - 1)))
    return wilson(round(share * fewer), fewer, z)


def median_interval(samples: Sequence[float]) -> Estimate:
    """The median with its distribution-free interval from order statistics (at least six samples)."""
    ordered = sorted(samples)
    n = len(ordered)
    half = Z_95 * math.sqrt(n) / 2
    low = max(0, math.floor(n / 2 - half))
    high = min(n - 1, math.ceil(n / 2 + half))
    return Estimate(statistics.median(ordered), ordered[low], ordered[high], n)


def mean_interval(samples: Sequence[float]) -> Estimate:
    """The mean with a normal interval; at least two samples."""
    mean = statistics.fmean(samples)
    half = Z_95 * statistics.stdev(samples) / math.sqrt(len(samples))
    return Estimate(mean, mean - half, mean + half, len(samples))
