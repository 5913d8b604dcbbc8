"""Replay a trace on the kernel: each change at its time, with how late it was."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from netctl.backends.kernel import read_back, send, tree
from netctl.backends.kernel.filters import Exemption
from netctl.backends.kernel.netlink import Netlink
from netctl.backends.kernel.qdiscs import HtbClass
from netctl.conditions.link import FRAME_HEADER_BYTES, DirectionConditions
from netctl.interface.pacing import Pacing, Sent, closed_bps
from netctl.linux import minimise_timer_slack, prefer_in_real_time, processors_awake
from netctl.traces.trace import ConditionStep, ConditionTrace, OpportunityTrace

_LATE_TIMER_S = 0.001
_LOOK_S = 0.02
"""What a look may take without making a change late, this machine being busy."""


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


@dataclass(frozen=True, slots=True)
class Watch:
    """What is to be done between changes, about so often: given what the kernel should have then."""

    period_s: float
    look: Callable[[tree.Tree], None]
    before_change: Callable[[], None] = lambda: None
    """Asked before each change whether it may still be made; quick."""


def meter(rate_bps: float, mtu_bytes: int) -> HtbClass:
    """A class that saves up half a frame's time, or what a late timer must catch up with.

    No more: what an opportunity's time has passed for is lost.
    """
    wide = tree.htb_class(rate_bps, mtu_bytes)
    frame = mtu_bytes + FRAME_HEADER_BYTES
    return replace(wide, burst_bytes=max(frame // 2, round(wide.rate_bytes_per_s * _LATE_TIMER_S)))


def replay_opportunities(
    interface: str,
    trace: OpportunityTrace,
    base: tree.Tree,
    *,
    begin_s: float,
    duration_s: float,
    mtu_bytes: int = 1500,
    namespace: str | None = None,
    watch: Watch | None = None,
) -> ReplayReport:
    """Change a metered tree's rate as a trace says, from `begin_s` of time.monotonic() on.

    What left is counted before each change, and made up for in the next gap.

    The tree `base` (kernel.tree with varying=True) is the caller's to install and to remove.
    """
    pacing = Pacing(trace)
    ends_s = begin_s + duration_s
    late_ms: list[float] = []
    pause = _Pause(watch, begin_s)
    present = base
    minimise_timer_slack()
    prefer_in_real_time()
    with processors_awake(), Netlink(namespace) as netlink:
        index = netlink.index(interface)

        def set_rate(rate_bps: float, saved_bytes: int | None = None) -> tree.Tree:
            if watch is not None:
                watch.before_change()
            rate = meter(rate_bps, mtu_bytes)
            if saved_bytes is not None:
                rate = replace(rate, burst_bytes=saved_bytes)
            send.change_rate(netlink, index, rate)
            return replace(base, rate=rate)

        # What leaves meanwhile has the way to the first opportunity to pay for, with nothing saved up.
        rate_bps = closed_bps(trace, max(0.0, begin_s - time.monotonic()))
        present = set_rate(rate_bps, saved_bytes=1)
        pause.until(begin_s, present)
        pace = pacing.begin(Sent(*read_back.sent(netlink, index)), rate_bps)
        while (due_s := begin_s + pace.next_change_ms / 1e3) < ends_s:
            pause.until(due_s, present)
            sent = Sent(*read_back.sent(netlink, index))
            pace = pacing.pace(pace.next_step, sent)
            present = set_rate(pace.rate_bps)
            late_ms.append((time.monotonic() - due_s) * 1e3)
        # The last step holds until the end.
        pause.until(ends_s, present)
    return _report(late_ms)


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
    watch: Watch | None = None,
) -> ReplayReport:
    """Change a metered tree's rate, delay and loss as a table says; what it does not say is `base`'s.

    `interpolated_ms`: on straight lines between its rows, a step each so many milliseconds.
    """
    steps = interpolation(trace, interpolated_ms) if interpolated_ms is not None else laps(trace)

    def planned(step: ConditionStep) -> tree.Tree:
        wanted = step.on(base)
        return tree.tree(wanted, varying=True, exempt=exempt, netem_here=netem_here)

    def change(netlink: Netlink, index: int, step: ConditionStep) -> tree.Tree:
        del index
        present = planned(step)
        send.change(netlink, interface, present)
        return present

    first = planned(trace.steps[0])
    return _replay(interface, namespace, steps, change, first, begin_s, duration_s, watch)


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
    steps: Iterator[ConditionStep],
    change: Callable[[Netlink, int, ConditionStep], tree.Tree],
    present: tree.Tree,
    begin_s: float,
    duration_s: float,
    watch: Watch | None,
) -> ReplayReport:
    minimise_timer_slack()
    prefer_in_real_time()
    late_ms = []
    pause = _Pause(watch, begin_s)
    with Netlink(namespace) as netlink:
        index = netlink.index(interface)
        for step in steps:
            due_s = begin_s + step.start_ms / 1e3
            if due_s >= begin_s + duration_s:
                # The last step holds until the end.
                pause.until(begin_s + duration_s, present)
                break
            pause.until(due_s, present)
            if watch is not None:
                watch.before_change()
            present = change(netlink, index, step)
            late_ms.append((time.monotonic() - due_s) * 1e3)
    return _report(late_ms)


class _Pause:
    """Waiting for the next change, with a look at the watch where there is time for one."""

    def __init__(self, watch: Watch | None, begin_s: float) -> None:
        self._watch = watch
        self._looked_s = begin_s

    def until(self, due_s: float, present: tree.Tree) -> None:
        """Return at a time of time.monotonic()."""
        while self._watch is not None:
            wanted_s = self._looked_s + self._watch.period_s
            look_s = max(wanted_s, time.monotonic())
            overdue = look_s > wanted_s + self._watch.period_s / 2
            # In a gap between changes; where there was none for long, at a change's cost.
            if due_s - look_s < _LOOK_S and not overdue:
                break
            sleep_until(look_s)
            self._watch.look(present)
            self._looked_s = time.monotonic()
        sleep_until(due_s)


def _report(late_ms: list[float]) -> ReplayReport:
    if not late_ms:
        return ReplayReport(0, 0.0, 0.0, 0.0)
    ordered = sorted(late_ms)
    return ReplayReport(
        len(late_ms),
        statistics.median(ordered),
        ordered[int(0.99 * (len(ordered) - 1))],
        ordered[-1],
    )
