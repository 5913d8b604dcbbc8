"""What changes when: moments of a timeline, once or again after each period."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TypeVar

Conditions = TypeVar("Conditions")


def repeated(
    first: Conditions, timeline: Sequence[tuple[float, Conditions]], period_ms: float | None
) -> tuple[tuple[float, Conditions], ...]:
    """A timeline whose every lap begins as the first did: with `first`, unless it says otherwise."""
    if period_ms is None or not timeline or timeline[0][0] == 0:
        return tuple(timeline)
    return (*timeline, (period_ms, first))


def moments(
    timeline: Sequence[tuple[float, Conditions]], period_ms: float | None
) -> Iterator[tuple[float, Conditions | None]]:
    """When (in ms from the beginning) what comes next; None at infinity, for ever, after the last."""
    for lap in itertools.count():
        for at_ms, conditions in timeline:
            yield at_ms + lap * (period_ms or 0.0), conditions
        if not timeline or period_ms is None:
            break
    while True:
        yield math.inf, None
