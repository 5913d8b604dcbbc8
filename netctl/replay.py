"""Replay a trace on the kernel: each change at its time, with how late it was."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

from netctl.kernel import tree
from netctl.kernel.netlink import Netlink
from netctl.linux import minimise_timer_slack, prefer_in_real_time
from netctl.traces.trace import OpportunityTrace, RateStep, looped, rate_steps

_LEAD_MS = 0.4
"""A rate must be in force before the packet that is charged with it, and after the one before."""


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """How a replay went: changes made, and how late they were in force."""

    changes: int
    late_ms_p50: float
    late_ms_p99: float
    late_ms_max: float


def sleep_until(at_s: float) -> None:
    """Sleep until a time of time.monotonic()."""
    while (left_s := at_s - time.monotonic()) > 0:
        time.sleep(left_s)


def leading(steps: Iterator[RateStep]) -> Iterator[RateStep]:
    """The same steps, each early by half of what its predecessor's last packet has, at most."""
    before: RateStep | None = None
    for step in steps:
        lead_ms = _LEAD_MS
        if before is not None and before.rate_bps > 0:
            lead_ms = min(lead_ms, 0.5 * 1514 * 8e3 / before.rate_bps)
        yield RateStep(step.start_ms - lead_ms, step.rate_bps)
        before = step


def replay_opportunities(
    interface: str,
    trace: OpportunityTrace,
    *,
    begin_s: float,
    duration_s: float,
    mtu_bytes: int = 1500,
    namespace: str | None = None,
) -> ReplayReport:
    """Change a metered tree's rate as a trace says, from `begin_s` of time.monotonic() on.

    The tree (kernel.tree with varying=True) is the caller's to make and to remove.
    """
    minimise_timer_slack()
    prefer_in_real_time()
    late_ms = []
    steps = leading(looped(rate_steps(trace), trace.period_ms))
    with Netlink(namespace) as netlink:
        index = netlink.index(interface)
        for step in steps:
            due_s = begin_s + step.start_ms / 1e3
            if due_s >= begin_s + duration_s:
                break
            rate = tree.htb_class(step.rate_bps, mtu_bytes)
            sleep_until(due_s)
            tree.change_rate(netlink, index, rate)
            late_ms.append((time.monotonic() - due_s) * 1e3)
    if not late_ms:
        return ReplayReport(0, 0.0, 0.0, 0.0)
    ordered = sorted(late_ms)
    return ReplayReport(
        len(late_ms),
        statistics.median(ordered),
        ordered[int(0.99 * (len(ordered) - 1))],
        ordered[-1],
    )
