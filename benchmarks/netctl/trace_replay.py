"""Recorded traces under a saturating sender: bytes in each 100 ms against what the trace allows."""

from __future__ import annotations

import itertools
import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.netctl.bench_link import (
    CLOUD,
    DEVICE,
    bench_link,
    make_namespaces,
    one_way,
)
from benchmarks.netctl.saturation import saturated
from netctl.backends.base import AIR_NAMESPACE
from netctl.backends.kernel import send, tree
from netctl.backends.kernel.netlink import Netlink
from netctl.conditions.link import DirectionConditions
from netctl.interface.pacing import closed_bps
from netctl.interface.replay import meter, replay_opportunities
from netctl.traces.files import read_opportunities
from netctl.traces.trace import OPPORTUNITY_BYTES, OpportunityTrace
from testbed.sandbox import run_in_sandbox

_WINDOW_MS = 100
_QUEUE_BYTES = 1 << 18
_LEAD_S = 0.5


@dataclass(frozen=True, slots=True)
class ReplayError:
    """How far what arrived was from what the trace allows."""

    trace: str
    windows: int
    window_median: float
    window_p90: float
    whole_packets: float
    """What arrived in all is off by so many."""
    cumulative_packets: float
    """And at the worst end of any window."""
    window_packets: float
    """What the best window allows."""
    allowed_packets: float
    changes_late_ms_p99: float | None


def deviation(
    name: str, got: list[int], trace: OpportunityTrace, first: int, late_ms: float | None
) -> ReplayError:
    """Compare windows of bytes with the trace's, from the `first` on; empty ones must be empty."""
    wanted = [trace.allowed_bytes(i * _WINDOW_MS, (i + 1) * _WINDOW_MS) for i in range(len(got))]
    got, wanted = got[first:], wanted[first:]
    off = [
        g - w for g, w in zip(itertools.accumulate(got), itertools.accumulate(wanted), strict=True)
    ]
    errors = sorted(abs(g - w) / w if w else float(g > 0) for g, w in zip(got, wanted, strict=True))
    return ReplayError(
        name,
        len(errors),
        statistics.median(errors),
        errors[int(0.9 * len(errors))],
        abs(off[-1]) / OPPORTUNITY_BYTES,
        max(map(abs, off)) / OPPORTUNITY_BYTES,
        max(wanted) / OPPORTUNITY_BYTES,
        sum(wanted) / OPPORTUNITY_BYTES,
        late_ms,
    )


def _offered_bps(trace: OpportunityTrace) -> float:
    """What fills the link at its best."""
    windows = range(0, trace.period_ms, _WINDOW_MS)
    best = max(trace.allowed_bytes(at, at + _WINDOW_MS) for at in windows)
    return 1.3 * best * 8e3 / _WINDOW_MS


def on_netem(path: Path, duration_s: float) -> ReplayError:
    """HTB over netem between the ends, its rate changed as the trace goes."""
    trace = read_opportunities(path)
    asked = DirectionConditions(round(trace.mean_rate_bps), queue_bytes=_QUEUE_BYTES)
    interface = "board-c"
    # As `netctl replay` does: one packet leaves, and pays until the first opportunity.
    closed = meter(closed_bps(trace, _LEAD_S), asked.mtu_bytes)
    planned = replace(tree.tree(asked, varying=True), rate=replace(closed, burst_bytes=1))
    with bench_link("netem", one_way(DirectionConditions())):
        with Netlink(AIR_NAMESPACE) as netlink:
            send.remove(netlink, netlink.index(interface))
            send.install(netlink, interface, planned)
        with saturated(DEVICE, CLOUD, _offered_bps(trace)) as received:
            begin_s = time.monotonic() + _LEAD_S
            report = replay_opportunities(
                interface, trace, planned,
                begin_s=begin_s, duration_s=duration_s, namespace=AIR_NAMESPACE,
            )  # fmt: skip
            time.sleep(0.2)
    got = received.windows(begin_s, duration_s)
    return deviation(path.name, got, trace, 0, report.late_ms_p99)


def on_userspace(backend: str, path: Path, duration_s: float) -> ReplayError:
    """Our own process between the ends; its trace begins with it, before anything is sent."""
    trace = read_opportunities(path)
    asked = one_way(DirectionConditions(queue_bytes=_QUEUE_BYTES))
    with (
        bench_link(backend, asked, uplink_trace=path) as link,
        saturated(DEVICE, CLOUD, _offered_bps(trace)) as received,
    ):
        first = int((time.monotonic() + 0.5 - link.begin_s) * 1e3 / _WINDOW_MS) + 1
        time.sleep(max(0.0, link.begin_s + duration_s + 0.2 - time.monotonic()))
    got = received.windows(link.begin_s, duration_s)
    return deviation(path.name, got, trace, first, None)


def main() -> None:
    """In a sandbox: BACKEND SECONDS OUT TRACE…; writes a list to OUT."""
    backend, duration_s, out, *paths = sys.argv[1:]

    def body() -> int:
        make_namespaces()
        found = []
        for path in map(Path, paths):
            if backend == "netem":
                found.append(on_netem(path, float(duration_s)))
            else:
                found.append(on_userspace(backend, path, float(duration_s)))
        Path(out).write_text(json.dumps([asdict(one) for one in found]), encoding="utf-8")
        return 0

    raise SystemExit(run_in_sandbox(body))


if __name__ == "__main__":
    main()
