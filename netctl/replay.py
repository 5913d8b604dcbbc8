"""Replay a trace on the kernel: each change at its time, with how late it was."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

from netctl.conditions import DirectionConditions
from netctl.kernel import tree
from netctl.kernel.filters import Exemption
from netctl.kernel.netlink import Netlink
from netctl.linux import minimise_timer_slack, prefer_in_real_time
from netctl.traces.trace import (
    ConditionStep,
    ConditionTrace,
    OpportunityTrace,
    RateStep,
    looped,
    rate_steps,
)

Step = TypeVar("Step", RateStep, ConditionStep)

_FRAME_BITS = 1514 * 8


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
    """The same steps, each early by half of what its predecessor's packets have.

    A rate must be in force when the packet that it is for leaves, and not when the one before does:
    halfway between is furthest from both. Were a packet that leaves a little early charged with the rate
    of a long gap once more, the gap would come twice.
    """
    before: RateStep | None = None
    for step in steps:
        lead_ms = 0.0 if before is None else 0.5 * _FRAME_BITS * 1e3 / before.rate_bps
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
    steps = leading(looped(rate_steps(trace), trace.period_ms))

    def change(netlink: Netlink, index: int, step: RateStep) -> None:
        tree.change_rate(netlink, index, tree.htb_class(step.rate_bps, mtu_bytes))

    return _replay(interface, namespace, steps, change, begin_s, duration_s)


def replay_conditions(
    interface: str,
    trace: ConditionTrace,
    base: DirectionConditions,
    *,
    begin_s: float,
    duration_s: float,
    interpolated_ms: float | None = None,
    exempt: tuple[Exemption, ...] = (),
    netem_here: bool = True,
    namespace: str | None = None,
) -> ReplayReport:
    """Change a metered tree's rate, delay and loss as a table says; what it does not say is `base`'s.

    `interpolated_ms`: on straight lines between its rows, a step each so many milliseconds.
    """
    steps = interpolation(trace, interpolated_ms) if interpolated_ms is not None else laps(trace)

    def change(netlink: Netlink, index: int, step: ConditionStep) -> None:
        del index
        wanted = step.on(base)
        planned = tree.tree(wanted, varying=True, exempt=exempt, netem_here=netem_here)
        tree.change(netlink, interface, planned)

    return _replay(interface, namespace, steps, change, begin_s, duration_s)


def laps(trace: ConditionTrace) -> Iterator[ConditionStep]:
    """The rows of a table, again and again."""
    for lap in itertools.count():
        for step in trace.steps:
            yield replace(step, start_ms=step.start_ms + lap * trace.period_ms)


def interpolation(trace: ConditionTrace, step_ms: float) -> Iterator[ConditionStep]:
    """A table at equal steps, on straight lines between its rows."""
    for number in itertools.count():
        at_ms = number * step_ms
        yield replace(trace.at(at_ms, interpolated=True), start_ms=at_ms)


def _replay(
    interface: str,
    namespace: str | None,
    steps: Iterator[Step],
    change: Callable[[Netlink, int, Step], None],
    begin_s: float,
    duration_s: float,
) -> ReplayReport:
    minimise_timer_slack()
    prefer_in_real_time()
    late_ms = []
    with Netlink(namespace) as netlink:
        index = netlink.index(interface)
        for step in steps:
            due_s = begin_s + step.start_ms / 1e3
            if due_s >= begin_s + duration_s:
                # The last step holds until the end.
                sleep_until(begin_s + duration_s)
                break
            sleep_until(due_s)
            change(netlink, index, step)
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
