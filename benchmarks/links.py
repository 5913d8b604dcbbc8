"""What links cost and how true they are: against an unshaped veth pair, and against what was asked."""

from __future__ import annotations

import contextlib
import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from benchmarks import tcp
from benchmarks.result import Result
from netctl.backends import BACKENDS, LinkSpec, execute
from netctl.backends.base import AIR_NAMESPACE, LinkPlan, namespace_commands
from netctl.backends.capabilities import probe
from netctl.conditions.link import DirectionConditions, LinkConditions
from netctl.measure.prober import Path as ProbePath
from netctl.measure.prober import measure_directions
from testbed.sandbox import run_in_sandbox

_DEVICE, _CLOUD = "10.9.0.2", "10.9.0.1"
_GOODPUT_S = 3.0


def _specification(conditions: LinkConditions) -> LinkSpec:
    return LinkSpec("board", "board", "cloud", f"{_DEVICE}/30", f"{_CLOUD}/30", conditions, seed=1)


def _bare_veth() -> LinkPlan:
    return LinkPlan(
        (
            ("ip", "-n", "board", "link", "add", "air0", "type", "veth",
             "peer", "name", "board", "netns", "cloud"),
            ("netctl", "offloads", "off", "board/air0"),
            ("netctl", "offloads", "off", "cloud/board"),
            ("ip", "-n", "board", "address", "add", f"{_DEVICE}/30", "dev", "air0"),
            ("ip", "-n", "cloud", "address", "add", f"{_CLOUD}/30", "dev", "board"),
            ("ip", "-n", "board", "link", "set", "air0", "up"),
            ("ip", "-n", "cloud", "link", "set", "board", "up"),
        )
    )  # fmt: skip


Figures = TypeVar("Figures")


def _on_link(plan: LinkPlan, measure: Callable[[], Figures]) -> Figures:
    """Make the link in a sandbox, measure there, and hand the figures out (by way of JSON)."""
    with tempfile.NamedTemporaryFile("r", encoding="utf-8") as result:

        def body() -> int:
            execute.run_all(namespace_commands((AIR_NAMESPACE, "board", "cloud")))
            process = execute.make_link(plan)
            Path(result.name).write_text(json.dumps(measure()), encoding="utf-8")
            if process is not None:
                process.terminate()
                process.communicate(timeout=10)
            return 0

        if run_in_sandbox(body) != 0:
            raise SystemExit("a link could not be measured; see above")
        figures: Figures = json.loads(result.read())
        return figures


def _goodput_bps() -> float:
    return tcp.goodput_bps(("board", _DEVICE), ("cloud", _CLOUD), _GOODPUT_S)


def _rate_and_delay(asked: DirectionConditions) -> list[float]:
    """The uplink's rate (bit/s) and delay (ms)."""
    with contextlib.closing(ProbePath(("board", _DEVICE), ("cloud", _CLOUD))) as path:
        (found,) = measure_directions([(path, asked)])
    rate_bps = found.rate_bps.value if found.rate_bps is not None else math.nan
    return [rate_bps, found.delay_ms.value]


def run() -> list[Result]:
    """Measure every backend that works here."""
    capabilities = probe()
    free = DirectionConditions()
    rate_bps, delay_ms = 50_000_000, 20.0
    asked = DirectionConditions(rate_bps, delay_ms)
    results = []
    veth_bps = _on_link(_bare_veth(), _goodput_bps)
    for backend in BACKENDS.values():
        if backend.missing(capabilities) is not None:
            continue
        unshaped = backend.plan(_specification(LinkConditions(free, free)))
        shaped = backend.plan(_specification(LinkConditions(asked, asked)))
        found_bps, found_ms = _on_link(shaped, lambda: _rate_and_delay(asked))
        name = f"links/{backend.name}"
        results += [
            Result(
                f"{name}/goodput",
                _on_link(unshaped, _goodput_bps) / 1e6,
                "Mbit/s",
                "unshaped veth, offloads off",
                veth_bps / 1e6,
            ),
            Result(
                f"{name}/rate",
                found_bps / 1e6,
                "Mbit/s",
                "asked for",
                rate_bps / 1e6,
                at_least=0.95,
            ),
            Result(
                f"{name}/delay",
                found_ms,
                "ms",
                "asked for",
                delay_ms,
                at_most=1.1,
            ),
        ]
    return results
