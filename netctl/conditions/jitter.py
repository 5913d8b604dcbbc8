"""How delays vary: distributions as netem's tables have them."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

Distribution = Literal["uniform", "normal", "pareto", "paretonormal"]

TABLE_SIZE = 4096
TABLE_SCALE = 8192
"""What stands for one standard deviation in a kernel table of 16-bit numbers."""
_LARGEST = 32767


@dataclass(frozen=True, slots=True)
class DelayTable:
    """A distribution by its quantiles, in standard deviations from the mean, at equal steps."""

    quantiles: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.quantiles:
            raise ValueError("a delay table needs at least one quantile")
        if not all(math.isfinite(value) for value in self.quantiles):
            raise ValueError("a delay table's quantiles must be finite")
        if max(map(abs, self.quantiles)) * TABLE_SCALE > _LARGEST:
            raise ValueError(
                f"a delay table reaches {_LARGEST / TABLE_SCALE:.2f} standard deviations at most"
            )

    @classmethod
    def from_samples(cls, delays_ms: Sequence[float]) -> tuple[float, float, DelayTable]:
        """Mean (ms), standard deviation (ms) and table of measured delays, at least two."""
        if len(delays_ms) < 2:
            raise ValueError(f"a distribution needs at least 2 samples, not {len(delays_ms)}")
        mean, deviation = statistics.fmean(delays_ms), statistics.pstdev(delays_ms)
        if deviation == 0:
            return mean, 0.0, cls((0.0,))
        reach = _LARGEST / TABLE_SCALE
        ordered = sorted(delays_ms)
        size = min(TABLE_SIZE, len(ordered))
        quantiles = [
            (ordered[int((i + 0.5) / size * len(ordered))] - mean) / deviation for i in range(size)
        ]
        return mean, deviation, cls(tuple(max(-reach, min(reach, q)) for q in quantiles))


@cache
def table(distribution: Distribution) -> tuple[int, ...] | None:
    """A named distribution as the kernel takes it: 16-bit steps; None is the kernel's uniform one.

    pareto and paretonormal follow iproute2's (shape 3; a quarter normal, three quarters Pareto), so
    that a name means what it means to tc.
    """
    if distribution == "uniform":
        return None
    normal = statistics.NormalDist()
    at = [(i + 0.5) / TABLE_SIZE for i in range(TABLE_SIZE)]
    if distribution == "normal":
        values = [normal.inv_cdf(u) for u in at]
    else:
        values = [((1 - u) ** (-1 / 3) - 1.5) * 4 / 3 for u in at]
        if distribution == "paretonormal":
            shuffled = list(at)
            random.Random(1).shuffle(shuffled)
            values = sorted(
                0.25 * normal.inv_cdf(u) + 0.75 * value
                for u, value in zip(shuffled, values, strict=True)
            )
    return _steps(values)


@cache
def uniform_table() -> tuple[int, ...]:
    """The uniform distribution as a table: what replaces another in a kernel that has one."""
    return _steps([2 * (i + 0.5) / TABLE_SIZE - 1 for i in range(TABLE_SIZE)])


def table_steps(quantiles: DelayTable) -> tuple[int, ...]:
    """A table of samples as the kernel takes it."""
    return _steps(quantiles.quantiles)


def _steps(values: Sequence[float]) -> tuple[int, ...]:
    return tuple(max(-_LARGEST - 1, min(_LARGEST, round(value * TABLE_SCALE))) for value in values)


@cache
def moments(distribution: Distribution | DelayTable) -> tuple[float, float]:
    """Mean and standard deviation of what is added to the delay, in units of the jitter.

    The names promise 0 and 1; a table cut off at four deviations has slightly less, and a Pareto's
    deviation is 1.15 by iproute2's own formula.
    """
    steps = (
        table_steps(distribution) if isinstance(distribution, DelayTable) else table(distribution)
    )
    if steps is None:
        return 0.0, 1 / math.sqrt(3)
    values = [step / TABLE_SCALE for step in steps]
    return statistics.fmean(values), statistics.pstdev(values)


@cache
def kurtosis(distribution: Distribution | DelayTable) -> float:
    """How heavy the tails of delays are: 1.8 uniform, 3 normal."""
    steps = (
        table_steps(distribution) if isinstance(distribution, DelayTable) else table(distribution)
    )
    if steps is None:
        return 1.8
    mean, deviation = statistics.fmean(steps), statistics.pstdev(steps)
    if deviation == 0:
        return 1.0
    return statistics.fmean(((step - mean) / deviation) ** 4 for step in steps)


def lowest(distribution: Distribution | DelayTable) -> float:
    """The least that is added to a delay, in units of the jitter."""
    steps = (
        table_steps(distribution) if isinstance(distribution, DelayTable) else table(distribution)
    )
    return -1.0 if steps is None else min(steps) / TABLE_SCALE
