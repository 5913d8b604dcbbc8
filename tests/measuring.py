"""Measurements on a machine that may be busy: those that its lateness may have spoiled tell nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

TOO_BUSY = "this machine was too busy"
"""What netctl says where it lost packets that the link had delivered: nothing can be told then."""

LATE_MS = 0.5
"""A prober that is so late with its own probes is on a busy machine: what it finds is inconclusive."""

WITHIN_S = 300.0
"""Measurements are repeated for so long."""

_AGREEING = 3
"""So many conclusive measurements make a link wrong: a pause of a virtual machine spoils one."""


def measure_until_told(measure: Callable[[], tuple[Sequence[object], float]]) -> None:
    """Measure until nothing is found wrong.

    Args:
        measure: returns what was found wrong, and by how many ms the prober was late.

    Raises:
        AssertionError: something is wrong, or nothing could be told in time.
    """
    begin_s = time.monotonic()
    seen: list[str] = []
    conclusive = 0
    while True:
        wrong, late_ms = measure()
        if not wrong:
            return
        inconclusive = late_ms > LATE_MS
        conclusive += not inconclusive
        verdict = f"inconclusive (the prober was late by {late_ms:.2f} ms)"
        seen.append(f"{verdict if inconclusive else 'wrong'}: {wrong}")
        assert conclusive < _AGREEING, seen
        assert time.monotonic() - begin_s < WITHIN_S, seen
