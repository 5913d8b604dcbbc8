"""Shape an interface of this machine for a while, and restore it whatever happens."""

from __future__ import annotations

import itertools
import math
import signal
import sys
import time
from collections.abc import Iterator, Sequence

from netctl.capabilities import probe
from netctl.conditions import DirectionConditions
from netctl.json_data import to_json
from netctl.kernel import tree
from netctl.kernel.filters import Exemption
from netctl.kernel.netlink import Netlink
from netctl.lease import held, restore
from protos.errors import LinkError, UnsupportedConditionError

_RENEWALS = 4
"""In one term of a lease: a busy moment must not cost it."""


def shape(
    interface: str,
    conditions: DirectionConditions,
    *,
    timeline: Sequence[tuple[float, DirectionConditions]] = (),
    period_ms: float | None = None,
    duration_ms: float | None = None,
    lease_s: float = 10.0,
    exempt: Sequence[Exemption] = (),
) -> None:
    """Shape what leaves an interface until SIGINT, SIGTERM or the time is over, then restore.

    `timeline` says what holds from so many milliseconds on, again after each period. What the kernel
    has is compared with what was asked of it at first and at every renewal of the
    lease.

    Raises:
        UnsupportedConditionError: the kernel lacks netem, or cannot represent the conditions.
        LinkError: the interface does not exist, carries somebody's own qdisc, or was changed meanwhile.
    """
    require_netem()
    planned = tree.tree(conditions, exempt=tuple(exempt))
    restore()
    signals = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    with Netlink() as netlink:
        refuse_foreign(netlink, interface)
        with held(interface, lease_s) as lease:
            tree.install(netlink, interface, planned)
            _compare(netlink, interface, planned)
            print(f"{interface} is shaped: {to_json(planned)}", file=sys.stderr, flush=True)
            begin_s = time.monotonic()
            ends_s = None if duration_ms is None else begin_s + duration_ms / 1e3
            changes = _changes(timeline, period_ms)
            change_ms, planned_next = next(changes)
            while True:
                waits_s = [lease_s / _RENEWALS, begin_s + change_ms / 1e3 - time.monotonic()]
                if ends_s is not None:
                    waits_s.append(ends_s - time.monotonic())
                told = signal.sigtimedwait(signals, max(0.0, min(waits_s)))
                # Stopped and continued, Python reports a signal of number 0.
                if told is not None and told.si_signo in signals:
                    break
                now_s = time.monotonic()
                if ends_s is not None and now_s >= ends_s:
                    break
                lease.renew()
                if planned_next is not None and now_s >= begin_s + change_ms / 1e3:
                    planned = tree.tree(planned_next, exempt=tuple(exempt))
                    tree.change(netlink, interface, planned)
                    change_ms, planned_next = next(changes)
                _compare(netlink, interface, planned)
    print(f"{interface} is restored", file=sys.stderr)


def _changes(
    timeline: Sequence[tuple[float, DirectionConditions]], period_ms: float | None
) -> Iterator[tuple[float, DirectionConditions | None]]:
    """When what comes next; None for ever where nothing does."""
    for lap in itertools.count():
        for at_ms, conditions in timeline:
            yield at_ms + lap * (period_ms or 0.0), conditions
        if not timeline or period_ms is None:
            break
    while True:
        yield math.inf, None


def require_netem() -> None:
    """UnsupportedConditionError where this kernel lacks netem."""
    missing = probe().netem
    if missing is not None:
        raise UnsupportedConditionError(
            f"an interface can only be shaped in place by netem, which this kernel lacks: {missing} "
            "`testbed run` builds links that need no kernel support"
        )


def refuse_foreign(netlink: Netlink, interface: str) -> None:
    """LinkError where an interface carries somebody else's own qdisc."""
    foreign = tree.foreign_root(netlink, interface)
    if foreign is not None:
        kind, handle = foreign.split()
        raise LinkError(
            f"{interface} already carries a {kind} qdisc (handle {handle}) that netctl did not "
            "make; it is left alone"
        )


def _compare(netlink: Netlink, interface: str, planned: tree.Tree) -> None:
    wrong = tree.differences(planned, tree.read_back(netlink, interface))
    if wrong:
        raise LinkError(f"{interface} is not shaped as it was asked to be: {'; '.join(wrong)}")
