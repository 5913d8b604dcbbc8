"""A table of conditions, each asked of a backend and measured: a certificate for each."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.netctl.bench_link import CLOUD, DEVICE, bench_link, make_namespaces
from benchmarks.netctl.conditions_table import CONDITIONS, REFUSED_BY
from netctl.conditions.link import DirectionConditions, LinkConditions
from netctl.measure.certificate import certify
from netctl.measure.prober import Path as ProbePath
from netctl.measure.prober import measure_directions
from testbed.sandbox import run_in_sandbox

_MEASUREMENTS = 3
"""At most: this machine's bad moment passes, a wrong link is wrong every time."""


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
