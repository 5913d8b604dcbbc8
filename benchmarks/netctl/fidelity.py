"""A table of conditions, each asked of a backend and measured: a certificate for each."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.netctl.bench_link import CLOUD, DEVICE, bench_link, make_namespaces
from netctl.conditions import DirectionConditions, LinkConditions
from netctl.jitter import DelayTable
from netctl.loss import FourState, GilbertElliott
from netctl.measure.certificate import certify
from netctl.measure.prober import Path as ProbePath
from netctl.measure.prober import measure_directions
from testbed.sandbox import run_in_sandbox

C = DirectionConditions
_MEASUREMENTS = 3
"""At most: this machine's bad moment passes, a wrong link is wrong every time."""
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


def _baseline_ms() -> float:
    with contextlib.closing(ProbePath((None, "127.0.0.1"), (None, "127.0.0.1"))) as loop:
        (found,) = measure_directions([(loop, DirectionConditions())], probes=200)
    return found.delay_ms.value


def _certificate(backend: str, asked: LinkConditions, baseline_ms: float) -> dict[str, Any]:
    with (
        bench_link(backend, asked),
        contextlib.closing(ProbePath(DEVICE, CLOUD, corrupting=asked.uplink.corrupt > 0)) as up,
        contextlib.closing(ProbePath(CLOUD, DEVICE)) as down,
    ):
        found = measure_directions([(up, asked.uplink), (down, asked.downlink)], probes=2000)
    measured = dict(zip(("uplink", "downlink"), found, strict=True))
    return certify(asked, measured, backend=backend, baseline_ms=baseline_ms).as_dict()


def main() -> None:
    """In a sandbox: BACKEND OUT [NAME…]; writes {name: certificate} to OUT."""
    backend, out, *names = sys.argv[1:]

    def body() -> int:
        make_namespaces()
        baseline_ms = _baseline_ms()
        certificates = {}
        for name in names or CONDITIONS:
            if backend in REFUSED_BY.get(name, ()):
                continue
            # The way back is what the condition is not: a mistaken direction would show.
            way = CONDITIONS[name]
            # Without a way there addresses are not resolved on the way back either.
            back = DirectionConditions(delay_ms=2) if way.up else way
            asked = LinkConditions(way, back)
            for _ in range(_MEASUREMENTS):
                certificates[name] = _certificate(backend, asked, baseline_ms)
                if certificates[name]["passed"]:
                    break
            Path(out).write_text(json.dumps(certificates), encoding="utf-8")
        return 0

    raise SystemExit(run_in_sandbox(body))


if __name__ == "__main__":
    main()
