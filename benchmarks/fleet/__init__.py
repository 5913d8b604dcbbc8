"""Many boards of one cloud: asks over links that break, and devices that only say that they are there."""

from __future__ import annotations

from benchmarks.fleet import asks, idle
from benchmarks.result import Result

PARTS = {"asks": asks.run, "idle": idle.run}


def run() -> list[Result]:
    """Measure both; some fifteen minutes."""
    return [result for part in PARTS.values() for result in part()]
