"""What a shaped direction is made of in the kernel: plan, install, change, read back, compare.

Usually a single netem. Where the rate will vary, or the queue is counted in bytes or managed by
CoDel, an HTB class meters what a netem has delayed: netem fixes a packet's departure when it is
queued, HTB when it leaves, so only HTB follows a rate that changes.

    htb a1f3: ── class a1f3:1 ── netem a1f1: ── bfifo, pfifo or codel a1f2:

A kernel without netem has the same less the netem: rates and queues, and nothing else.

What is exempt HTB sends directly, ahead of all classes. Above a single netem a prio a1f0: does that: the
netem hangs from its second band, and filters send what is exempt to the first.

Traffic in classes has an HTB class for each, below one of the rate that they share; what no filter of
theirs takes goes the way above:

    htb a1f3: ── class a1f3:2 ─┬─ class a1f3:1 ── netem a1f1: ── … (others)
                               ├─ class a1f3:10 ── netem a400: ── bfifo, pfifo or codel a500:
                               └─ class a1f3:11 ── netem a401: ── …
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal

from airloom.errors import LinkError, UnsupportedConditionError
from netctl.classes import SharedLink
from netctl.conditions import FRAME_HEADER_BYTES, DirectionConditions
from netctl.jitter import DelayTable, table, table_steps
from netctl.kernel import netlink as nl
from netctl.kernel import qdiscs
from netctl.kernel.filters import (
    Exemption,
    Filter,
    exempting_filters,
    matching_filters,
    shown_exemptions,
    shown_filters,
    two_bands,
)
from netctl.kernel.netlink import Netlink, TrafficControl

BANDS, NETEM, QUEUE, METER = 0xA1F0_0000, 0xA1F1_0000, 0xA1F2_0000, 0xA1F3_0000
"""Handles of what is made here: what bears another is somebody else's and is never touched."""
CLASS = METER | 1
SHARED = METER | 2
_FIRST_CLASS, _FIRST_NETEM, _FIRST_QUEUE = METER | 0x10, 0xA400_0000, 0xA500_0000
"""Of the classes that traffic is sorted into; one more of each for the next."""
_NEXT_QDISC = 0x0001_0000
_ROOTS = (BANDS, METER, NETEM)
_TC_H_ROOT = 0xFFFFFFFF
_ORDER_KEEPING_BYTES_PER_S = 12_500_000_000
"""Without a rate netem sorts by due time and so reorders; any rate makes it keep the order."""
_DELAYED_PACKETS = 200_000
_BURST_S = 0.001
_LARGEST_QUANTUM_BYTES = 200_000
"""The kernel warns of larger ones: weights more uneven than that are as even in what is borrowed."""
_CODEL_TARGET_US, _CODEL_INTERVAL_US = 5_000, 100_000

FREE_BPS = 100_000_000_000
"""A rate that nothing here reaches."""

Request = tuple[int, TrafficControl, int]
"""Kind, message and flags."""
QueueKind = Literal["bfifo", "pfifo", "codel"]


@dataclass(frozen=True, slots=True)
class Queue:
    """What waits for the rate: a bfifo's limit is in bytes, the others' in packets."""

    kind: QueueKind
    limit: int

    def encode(self) -> bytes:
        if self.kind == "codel":
            return qdiscs.codel(self.limit, _CODEL_TARGET_US, _CODEL_INTERVAL_US)
        return qdiscs.fifo(self.limit)


@dataclass(frozen=True, slots=True)
class Branch:
    """What one class of traffic passes, and the filters that send it there."""

    filters: tuple[Filter, ...]
    netem: qdiscs.Netem | None
    rate: qdiscs.HtbClass
    queue: Queue


@dataclass(frozen=True, slots=True)
class Tree:
    """All that one direction needs in the kernel."""

    netem: qdiscs.Netem | None
    rate: qdiscs.HtbClass | None = None
    queue: Queue | None = None
    exempt: tuple[Exemption, ...] = ()
    """What passes unshaped, ahead of everything."""
    shared: qdiscs.HtbClass | None = None
    """The rate of all classes together."""
    branches: tuple[Branch, ...] = ()
    """Of the classes; the first whose filters match has the packet, the tree's own netem the rest."""

    def __post_init__(self) -> None:
        # In the order in which they are read back.
        object.__setattr__(self, "exempt", tuple(sorted(set(self.exempt))))


def htb_class(rate_bps: float, mtu_bytes: int) -> qdiscs.HtbClass:
    """A class of a rate: bursts of two frames, or of what a late timer must catch up with."""
    frame = mtu_bytes + FRAME_HEADER_BYTES
    rate = max(1, round(rate_bps / 8))
    return qdiscs.HtbClass(rate, max(2 * frame, round(rate * _BURST_S)), 2 * frame)


def tree(
    conditions: DirectionConditions,
    *,
    varying: bool = False,
    exempt: tuple[Exemption, ...] = (),
    netem_here: bool = True,
) -> Tree:
    """Plan a direction; `varying`: its rate will be changed while packets queue.

    Raises:
        UnsupportedConditionError: the kernel cannot represent it.
    """
    c = conditions
    if not netem_here:
        return _without_netem(c, exempt)
    if c.jitter_correlation:
        raise UnsupportedConditionError(
            "netem cannot correlate delays: its correlation is of a 32-bit number of which it then "
            "takes a remainder, and that has none; the userspace backends can"
        )
    named = c.distribution
    steps = table_steps(named) if isinstance(named, DelayTable) else table(named)
    metered = c.rate_bps is not None and (
        varying or c.queue_bytes is not None or c.queue_discipline == "codel"
    )
    if c.queue_discipline == "codel" and c.rate_bps is None:
        raise UnsupportedConditionError("CoDel manages a queue, and without a rate there is none")
    rate = 0
    if c.rate_bps is not None and not metered:
        rate = round(c.rate_bps / 8)
    elif c.jitter_ms and c.in_order:
        rate = _ORDER_KEEPING_BYTES_PER_S
    netem = qdiscs.Netem(
        limit=_DELAYED_PACKETS if metered else c.limit_packets,
        latency_ns=round(c.delay_ms * 1e6),
        jitter_ns=round(c.jitter_ms * 1e6),
        table=steps if c.jitter_ms else None,
        loss=1.0 if not c.up else c.loss if c.loss_model is None else 0.0,
        loss_model=c.loss_model if c.up else None,
        duplicate=c.duplicate,
        reorder=c.reorder,
        corrupt=c.corrupt,
        rate_bytes_per_s=rate,
        slots=c.slots,
    )
    if not metered:
        return Tree(netem, exempt=exempt)
    return Tree(netem, *_meter(c), exempt)


def _meter(c: DirectionConditions) -> tuple[qdiscs.HtbClass, Queue]:
    assert c.rate_bps is not None
    if c.queue_discipline == "codel":
        queue = Queue("codel", c.limit_packets)
    elif c.queue_packets is not None:
        queue = Queue("pfifo", c.queue_packets)
    else:
        queue = Queue("bfifo", c.queue_limit_bytes or 0)
    return htb_class(c.rate_bps, c.mtu_bytes), queue


def _without_netem(c: DirectionConditions, exempt: tuple[Exemption, ...]) -> Tree:
    plain = DirectionConditions(
        rate_bps=c.rate_bps,
        queue_ms=c.queue_ms,
        queue_bytes=c.queue_bytes,
        queue_packets=c.queue_packets,
        queue_discipline=c.queue_discipline,
        mtu_bytes=c.mtu_bytes,
    )
    wrong = [
        field.name
        for field in fields(c)
        # How a jitter of zero is distributed means nothing.
        if field.name not in ("distribution", "in_order")
        and getattr(c, field.name) != getattr(plain, field.name)
    ]
    if wrong:
        raise UnsupportedConditionError(
            f"this kernel has no netem, and so can only shape rates and queues, not {wrong[0]}; "
            "`testbed run` builds links that need no kernel support"
        )
    return Tree(None, *_meter(metered(plain)), exempt)


def metered(conditions: DirectionConditions) -> DirectionConditions:
    """The same with a rate: no rate is one that nothing reaches."""
    if conditions.rate_bps is not None:
        return conditions
    return replace(
        conditions, rate_bps=FREE_BPS, queue_bytes=1 << 30, queue_packets=None, in_order=True
    )


def shared_tree(
    link: SharedLink, *, exempt: tuple[Exemption, ...] = (), netem_here: bool = True
) -> Tree:
    """Plan a direction whose traffic is sorted into classes.

    Raises:
        UnsupportedConditionError: the kernel cannot represent one of them.
    """
    rest = tree(metered(link.others), varying=True, exempt=exempt, netem_here=netem_here)
    assert rest.rate is not None
    branches = []
    for number, one in enumerate(link.classes):
        part = tree(metered(one.conditions), varying=True, netem_here=netem_here)
        assert part.rate is not None
        assert part.queue is not None
        filters = tuple(
            each for match in one.match for each in matching_filters(match, _FIRST_CLASS + number)
        )
        rate = _share(part.rate, link, one.weight)
        branches.append(Branch(filters, part.netem, rate, part.queue))
    return replace(
        rest,
        rate=_share(rest.rate, link, 1.0),
        shared=None if link.rate_bps is None else htb_class(link.rate_bps, link.others.mtu_bytes),
        branches=tuple(branches),
    )


def _share(own: qdiscs.HtbClass, link: SharedLink, weight: float) -> qdiscs.HtbClass:
    """A class that has its part of what is shared, and may borrow up to its own rate."""
    guaranteed_bps = link.guaranteed_bps(weight)
    if guaranteed_bps is None or link.rate_bps is None:
        return own
    rate = min(own.rate_bytes_per_s, max(1, round(guaranteed_bps / 8)))
    ceil = min(own.rate_bytes_per_s, round(link.rate_bps / 8))
    burst = max(own.quantum_bytes, round(ceil * _BURST_S))
    # What is borrowed is lent by turns of a quantum each, which is never less than a frame.
    smallest = min(1.0, *(one.weight for one in link.classes))
    quantum = min(_LARGEST_QUANTUM_BYTES, round(own.quantum_bytes * weight / smallest))
    return qdiscs.HtbClass(rate, burst, quantum, None if ceil == rate else ceil)


def install(netlink: Netlink, interface: str, planned: Tree) -> None:
    """Put a tree where there is none of ours; LinkError where the kernel refuses.

    What was begun is taken away again where a later part is refused.
    """
    index = netlink.index(interface)
    requests = _requests(index, planned, nl.NLM_F_CREATE | nl.NLM_F_EXCL)
    try:
        for request in requests:
            netlink.request(*request)
    except LinkError:
        remove(netlink, interface)
        raise


def change(netlink: Netlink, interface: str, planned: Tree) -> None:
    """Change a tree of the same parts, in one system call; packets in it stay."""
    index = netlink.index(interface)
    netlink.request_all(_requests(index, planned, 0))


def change_rate(netlink: Netlink, index: int, rate: qdiscs.HtbClass) -> None:
    """Change the rate alone of a metered tree: what replay does up to 1,000 times a second."""
    message = TrafficControl(index, CLASS, METER, 0, "htb", rate.encode())
    netlink.request(nl.RTM_NEWTCLASS, message)


def _requests(index: int, planned: Tree, flags: int) -> list[Request]:
    """What makes a tree (flags to create), or changes one (no flags), from the root on."""
    qdisc = nl.RTM_NEWQDISC
    if planned.rate is None:
        return _netem_alone(index, planned, flags)
    requests = []
    # The HTB above its classes, and filters, have nothing that a change would change.
    if flags:
        meter = TrafficControl(index, METER, _TC_H_ROOT, 0, "htb", qdiscs.htb_root(1))
        requests.append((qdisc, meter, flags))
        filters = tuple(exempting_filters(planned.exempt, METER)) if planned.exempt else ()
        filters += tuple(each for branch in planned.branches for each in branch.filters)
        # Before anything is delayed: what is exempt is so from the first moment.
        requests += _filtering(index, METER, filters, flags)
    above = METER
    if planned.shared is not None:
        above = SHARED
        requests.append(_classed(index, SHARED, METER, planned.shared, flags))
    requests += _branch(index, above, CLASS, NETEM, QUEUE, planned, flags)
    for number, branch in enumerate(planned.branches):
        netem_handle, queue_handle = (
            first + number * _NEXT_QDISC for first in (_FIRST_NETEM, _FIRST_QUEUE)
        )
        own = _FIRST_CLASS + number
        requests += _branch(index, above, own, netem_handle, queue_handle, branch, flags)
    return requests


def _netem_alone(index: int, planned: Tree, flags: int) -> list[Request]:
    assert planned.netem is not None
    qdisc, parent = nl.RTM_NEWQDISC, _TC_H_ROOT
    requests = []
    if planned.exempt:
        parent = BANDS | 2
        if flags:
            bands = TrafficControl(index, BANDS, _TC_H_ROOT, 0, "prio", two_bands())
            filters = tuple(exempting_filters(planned.exempt, BANDS | 1))
            requests = [(qdisc, bands, flags), *_filtering(index, BANDS, filters, flags)]
    netem = TrafficControl(index, NETEM, parent, 0, "netem", planned.netem.encode())
    return [*requests, (qdisc, netem, flags)]


def _filtering(index: int, parent: int, filters: tuple[Filter, ...], flags: int) -> list[Request]:
    return [
        (nl.RTM_NEWTFILTER, one.encode(index, parent, priority), flags)
        for priority, one in enumerate(filters, 1)
    ]


def _classed(index: int, own: int, parent: int, rate: qdiscs.HtbClass, flags: int) -> Request:
    message = TrafficControl(index, own, parent, 0, "htb", rate.encode())
    return (nl.RTM_NEWTCLASS, message, flags & ~nl.NLM_F_EXCL)


def _branch(
    index: int,
    parent: int,
    own: int,
    netem_handle: int,
    queue_handle: int,
    branch: Tree | Branch,
    flags: int,
) -> list[Request]:
    rate, queue = branch.rate, branch.queue
    assert rate is not None
    assert queue is not None
    requests = [_classed(index, own, parent, rate, flags)]
    if branch.netem is not None:
        netem = TrafficControl(index, netem_handle, own, 0, "netem", branch.netem.encode())
        requests.append((nl.RTM_NEWQDISC, netem, flags))
        own = netem_handle | 1
    waiting = TrafficControl(index, queue_handle, own, 0, queue.kind, queue.encode())
    return [*requests, (nl.RTM_NEWQDISC, waiting, flags)]


def foreign_root(netlink: Netlink, interface: str) -> str | None:
    """Somebody else's explicit root qdisc, as `kind handle`; None where there is none.

    What the kernel puts there by itself has the handle 0.
    """
    for qdisc in netlink.dump(nl.RTM_GETQDISC, netlink.index(interface)):
        if qdisc.parent == _TC_H_ROOT and qdisc.handle not in (0, *_ROOTS):
            return f"{qdisc.kind} {qdisc.handle >> 16:x}:"
    return None


def remove(netlink: Netlink, interface: str) -> bool:
    """Take our tree away; False where there is none of ours."""
    index = netlink.index(interface)
    ours = [
        qdisc
        for qdisc in netlink.dump(nl.RTM_GETQDISC, index)
        if qdisc.parent == _TC_H_ROOT and qdisc.handle in _ROOTS
    ]
    for qdisc in ours:
        netlink.request(
            nl.RTM_DELQDISC, TrafficControl(index, qdisc.handle, _TC_H_ROOT, 0, qdisc.kind)
        )
    return bool(ours)


def read_back(netlink: Netlink, interface: str) -> Tree | None:
    """What of ours the kernel has there; None where nothing."""
    index = netlink.index(interface)
    shown = {qdisc.handle: qdisc for qdisc in netlink.dump(nl.RTM_GETQDISC, index)}
    netem = _shown_netem(shown.get(NETEM))
    if netem is None and METER not in shown:
        return None
    bands = METER if METER in shown else BANDS
    filters: tuple[Filter, ...] = ()
    if bands in shown:
        filters = shown_filters(netlink.dump(nl.RTM_GETTFILTER, index, bands))
    exempting = METER if METER in shown else BANDS | 1
    exempt = shown_exemptions([one for one in filters if one.target == exempting])
    if METER not in shown:
        return Tree(netem, exempt=exempt)
    classes = {
        one.handle: qdiscs.HtbClass.decode(one.options)
        for one in netlink.dump(nl.RTM_GETTCLASS, index)
        if one.handle & 0xFFFF_0000 == METER
    }
    branches = []
    if _FIRST_CLASS in classes:
        for own in sorted(handle for handle in classes if handle >= _FIRST_CLASS):
            after = (own - _FIRST_CLASS) * _NEXT_QDISC
            below = _shown_netem(shown.get(_FIRST_NETEM + after))
            queue = _shown_queue(shown.get(_FIRST_QUEUE + after))
            if queue is not None:
                taking = tuple(one for one in filters if one.target == own)
                branches.append(Branch(taking, below, classes[own], queue))
    return Tree(
        netem,
        classes.get(CLASS),
        _shown_queue(shown.get(QUEUE)),
        exempt,
        classes.get(SHARED),
        tuple(branches),
    )


def _shown_netem(shown: TrafficControl | None) -> qdiscs.Netem | None:
    if shown is None or shown.kind != "netem":
        return None
    return qdiscs.Netem.decode(shown.options)


def _shown_queue(shown: TrafficControl | None) -> Queue | None:
    if shown is None:
        return None
    limit = qdiscs.codel_limit if shown.kind == "codel" else qdiscs.fifo_limit
    return Queue(shown.kind, limit(shown.options))  # type: ignore[arg-type]


def describe(planned: Tree) -> str:
    """A tree for people: what is set, in the kernel's units, parts separated by semicolons."""

    def written(part: Any) -> str:
        values = {field.name: getattr(part, field.name) for field in fields(part)}
        shown = {name: value for name, value in values.items() if value}
        if "table" in shown:
            shown["table"] = f"of {len(shown['table'])}"
        return ", ".join(f"{name} {value}" for name, value in shown.items())

    def direction(part: Tree | Branch) -> list[str]:
        found = [] if part.netem is None else [f"netem {written(part.netem)}"]
        if part.rate is not None:
            found.append(f"htb {written(part.rate)}")
        if part.queue is not None:
            found.append(f"{part.queue.kind} limit {part.queue.limit}")
        return found

    parts = direction(planned)
    if planned.shared is not None:
        parts.append(f"shared htb {written(planned.shared)}")
    for number, branch in enumerate(planned.branches, 1):
        parts.append(f"class {number}: {', '.join(direction(branch))}")
    if planned.exempt:
        parts.append(f"exempt {', '.join(f'{e.protocol}/{e.port}' for e in planned.exempt)}")
    return "; ".join(parts)


def check(netlink: Netlink, interface: str, planned: Tree) -> None:
    """LinkError where the kernel has something else than was asked of it."""
    wrong = differences(planned, read_back(netlink, interface))
    if wrong:
        raise LinkError(f"{interface} is not shaped as it was asked to be: {'; '.join(wrong)}")


def differences(asked: Tree, shown: Tree | None) -> list[str]:
    """How what the kernel shows differs from what was asked of it, in the kernel's units."""
    if shown is None:
        return ["there is nothing of ours"]
    return _differences("", asked, shown)


_NOT_SHOWN = {"table", "burst_bytes"}
"""The kernel keeps a delay table to itself, and a burst as time of limited precision."""


def _differences(path: str, asked: Any, shown: Any) -> list[str]:
    if path == "branches" and len(asked) == len(shown):
        return [
            difference
            for number, pair in enumerate(zip(asked, shown, strict=True), 1)
            for difference in _differences(f"class {number}", *pair)
        ]
    if asked is None or shown is None or not is_dataclass(asked):
        if isinstance(asked, float) and isinstance(shown, float):
            # Chances have 32 bits.
            same = math.isclose(asked, shown, rel_tol=1e-6, abs_tol=1e-9)
        else:
            same = asked == shown
        return [] if same else [f"{path} is {shown}, not {asked}"]
    if type(asked) is not type(shown):
        return [f"{path} is {shown}, not {asked}"]
    found: list[str] = []
    for field in fields(asked):
        if field.name not in _NOT_SHOWN:
            name = f"{path}.{field.name}" if path else field.name
            found += _differences(name, getattr(asked, field.name), getattr(shown, field.name))
    return found
