"""The conditions that every backend is measured by."""

from __future__ import annotations

from netctl.conditions.jitter import DelayTable
from netctl.conditions.link import DirectionConditions
from netctl.conditions.loss import FourState, GilbertElliott

C = DirectionConditions
_LOGNORMAL = DelayTable.from_samples([2 * 1.6 ** ((i % 97) / 20 - 2.4) for i in range(970)])

CONDITIONS: dict[str, DirectionConditions] = {
    "free": C(),
    "delay-1ms": C(delay_ms=1),
    "delay-20ms": C(delay_ms=20),
    "delay-300ms": C(delay_ms=300),
    "rate-100k": C(100_000, 50),
    "rate-1M": C(1_000_000, 30),
    "rate-10M": C(10_000_000, 10),
    "rate-40M": C(40_000_000, 5),
    "rate-80M": C(80_000_000, 2),
    "jitter-uniform": C(None, 20, 10),
    "jitter-uniform-rate": C(8_000_000, 25, 4),
    "jitter-normal": C(None, 40, 5, distribution="normal"),
    "jitter-pareto": C(None, 30, 5, distribution="pareto"),
    "jitter-paretonormal": C(None, 30, 5, distribution="paretonormal"),
    "jitter-table": C(None, 40, 6, distribution=_LOGNORMAL[2]),
    "jitter-correlated": C(None, 30, 10, jitter_correlation=0.4),
    "jitter-unordered": C(None, 30, 10, in_order=False),
    "loss-0.1%": C(None, 5, loss=0.001),
    "loss-1%": C(None, 5, loss=0.01),
    "loss-10%": C(None, 5, loss=0.10),
    "loss-40%": C(None, 5, loss=0.40),
    "bursts-5%-of-4": C(None, 5, loss_model=GilbertElliott.bursts(0.05, 4)),
    "bursts-20%-of-10": C(None, 5, loss_model=GilbertElliott.bursts(0.20, 10)),
    "gilbert-elliott": C(None, 5, loss_model=GilbertElliott(0.02, 0.2, 0.7, 0.01)),
    "four-state": C(None, 5, loss_model=FourState(0.02, 0.3, 0.1, 0.8, 0.01)),
    "duplicates-5%": C(None, 10, duplicate=0.05),
    "corrupt-3%": C(None, 10, corrupt=0.03),
    "overtaking-10%": C(None, 30, reorder=0.10),
    "queue-bytes": C(4_000_000, 10, queue_bytes=60_000),
    "queue-codel": C(4_000_000, 10, queue_discipline="codel"),
    "wifi": C(15_000_000, 3, 1, 0.001),
    "lte": C(12_000_000, 22, 3, 0.002),
    "edge": C(400_000, 90, 10, 0.04),
    "geo-satellite": C(20_000_000, 280, 5, 0.005),
    "nb-iot": C(60_000, 800, 50, 0.02, queue_ms=3000),
    "dead-zone": C(None, 10, up=False),
}

REFUSED_BY = {"jitter-correlated": ("netem",)}
"""What a backend refuses, as it must: it could not do it."""
