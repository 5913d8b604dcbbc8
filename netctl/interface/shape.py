"""Shape an interface of this machine for a while, and restore it whatever happens."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import overload

from airloom.errors import LinkError, UnsupportedConditionError
from netctl.backends.capabilities import probe
from netctl.backends.kernel import read_back, send, tree
from netctl.backends.kernel.filters import Exemption
from netctl.backends.kernel.netlink import Netlink
from netctl.conditions.classes import SharedLink
from netctl.conditions.link import DirectionConditions
from netctl.conditions.timeline import moments
from netctl.interface.end_signals import block_end_signals, told_to_end
from netctl.interface.held import Held, held
from netctl.interface.ingress import make_ifb, redirect, refuse_foreign_ingress
from netctl.interface.lease import RENEWALS, leases_here
from netctl.interface.restore import restore
from netctl.linux import minimise_timer_slack, processors_awake

_LAST_STRETCH_S = 0.02
"""Before a change at a given time nothing else is done."""


def shape(
    interface: str,
    conditions: DirectionConditions | SharedLink,
    *,
    timeline: Sequence[tuple[float, DirectionConditions]] = (),
    period_ms: float | None = None,
    duration_ms: float | None = None,
    lease_s: float = 10.0,
    exempt: Sequence[Exemption] = (),
    incoming: bool = False,
    at_s: float | None = None,
) -> None:
    """Shape what leaves an interface until SIGINT, SIGTERM or the time is over, then restore.

    A shared link sorts it into classes. `incoming` shapes what arrives instead, through an ifb. `at_s`
    (of time.time()) is when the shaping begins: everything is in place before, so that several boards
    change together, and how late this one was is told. `timeline` says what holds from so many
    milliseconds on, again after each period. What the kernel has is compared with what was asked of it
    at first and at every renewal of the lease.

    Raises:
        UnsupportedConditionError: the kernel lacks netem and HTB, or cannot represent the conditions.
        LinkError: the interface does not exist, carries somebody's own qdisc, or was changed meanwhile.
    """
    with_netem = netem_here()
    planned = _planned(conditions, exempt, with_netem)
    restore()
    block_end_signals()
    first = (
        planned if at_s is None else _planned(_neutral(conditions, with_netem), exempt, with_netem)
    )
    with (
        Netlink() as netlink,
        taken(netlink, interface, first, lease_s, incoming) as (lease, shaped),
    ):
        if at_s is not None:
            if not _wait_until(at_s, lease, lease_s):
                return
            lease.require_in_time()
            send.change(netlink, shaped, planned)
            late_ms = (time.time() - at_s) * 1e3
            print(f"{interface} changed {late_ms:.3f} ms late", file=sys.stderr)
        read_back.check(netlink, shaped, planned)
        print(f"{interface} is shaped: {read_back.describe(planned)}", file=sys.stderr, flush=True)
        begin_s = time.monotonic()
        ends_s = math.inf if duration_ms is None else begin_s + duration_ms / 1e3
        changes = moments(timeline, period_ms)
        change_ms, next_conditions = next(changes)
        while True:
            change_s = begin_s + change_ms / 1e3
            wait_s = min(lease_s / RENEWALS, min(change_s, ends_s) - time.monotonic())
            if told_to_end(wait_s) or time.monotonic() >= ends_s:
                break
            lease.renew()
            if next_conditions is not None and time.monotonic() >= change_s:
                planned = _planned(next_conditions, exempt, with_netem)
                lease.require_in_time()
                send.change(netlink, shaped, planned)
                change_ms, next_conditions = next(changes)
            read_back.check(netlink, shaped, planned)
    print(f"{interface} is restored", file=sys.stderr)


@contextlib.contextmanager
def taken(
    netlink: Netlink, interface: str, first: tree.Tree, lease_s: float, incoming: bool
) -> Iterator[tuple[Held, str]]:
    """Hold an interface with a tree on it until the block ends; gives the lease and what carries it.

    Raises:
        LinkError: it is somebody else's, or does not exist.
    """
    if incoming:
        refuse_foreign_ingress(interface)
    else:
        refuse_foreign(netlink, interface)
    with held(interface, lease_s, "incoming" if incoming else "leaving") as lease:
        # Whatever of it is there is taken away with the lease, by whoever does that.
        with lease.exclusively():
            shaped = make_ifb(netlink.index(interface)) if incoming else interface
            send.install(netlink, shaped, first)
            if incoming:
                redirect(netlink, interface, shaped)
        yield lease, shaped


def _planned(
    conditions: DirectionConditions | SharedLink, exempt: Sequence[Exemption], with_netem: bool
) -> tree.Tree:
    if isinstance(conditions, SharedLink):
        return tree.shared_tree(conditions, exempt=tuple(exempt), netem_here=with_netem)
    return tree.tree(conditions, exempt=tuple(exempt), netem_here=with_netem)


@overload
def _neutral(conditions: DirectionConditions, with_netem: bool) -> DirectionConditions: ...
@overload
def _neutral(conditions: SharedLink, with_netem: bool) -> SharedLink: ...
def _neutral(
    conditions: DirectionConditions | SharedLink, with_netem: bool
) -> DirectionConditions | SharedLink:
    """What lets everything through, in a tree of the same parts."""
    if isinstance(conditions, SharedLink):
        classes = [
            replace(one, conditions=_neutral(one.conditions, with_netem))
            for one in conditions.classes
        ]
        free_bps = None if conditions.rate_bps is None else tree.FREE_BPS
        return SharedLink(tuple(classes), _neutral(conditions.others, with_netem), free_bps)
    if tree.tree(conditions, netem_here=with_netem).rate is None:
        return DirectionConditions()
    return DirectionConditions(
        rate_bps=tree.FREE_BPS,
        queue_bytes=conditions.queue_bytes,
        queue_packets=conditions.queue_packets,
        queue_discipline=conditions.queue_discipline,
    )


def _wait_until(at_s: float, lease: Held, lease_s: float) -> bool:
    """Wait for a time of day, renewing; False where a signal came first."""
    while (left_s := at_s - time.time()) > _LAST_STRETCH_S:
        if told_to_end(min(left_s - _LAST_STRETCH_S, lease_s / RENEWALS)):
            return False
        lease.renew()
    minimise_timer_slack()
    with processors_awake():
        time.sleep(max(0.0, at_s - time.time()))
    return True


def netem_here() -> bool:
    """Whether this kernel has netem; without it only rates and queues can be shaped.

    Raises:
        UnsupportedConditionError: it has no HTB either.
    """
    found = probe()
    if found.netem is not None and found.htb is not None:
        raise UnsupportedConditionError(
            "an interface can only be shaped in place by netem or HTB, which this kernel lacks: "
            f"{found.netem} `testbed run` builds links that need no kernel support"
        )
    return found.netem is None


def refuse_foreign(netlink: Netlink, interface: str) -> None:
    """LinkError where an interface carries somebody else's own qdisc, or one of ours unknown to all."""
    index = netlink.index(interface)
    leased = any((one.index, one.kind) == (index, "leaving") for one in leases_here())
    if not leased and read_back.own_roots(netlink, index):
        raise LinkError(
            f"{interface} carries a tree that a netctl left and no lease tells of; "
            "`netctl restore --orphans` takes it away"
        )
    foreign = read_back.foreign_root(netlink, interface)
    if foreign is not None:
        kind, handle = foreign.split()
        raise LinkError(
            f"{interface} already carries a {kind} qdisc (handle {handle}) that netctl did not "
            "make; it is left alone"
        )
