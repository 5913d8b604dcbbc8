"""What a shaped direction is made of in the kernel: its plan.

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

from dataclasses import dataclass, fields, replace
from typing import Literal

from airloom.errors import UnsupportedConditionError
from netctl.backends.kernel import qdiscs
from netctl.backends.kernel.filters import Exemption, Filter, matching_filters
from netctl.backends.kernel.handles import FIRST_CLASS
from netctl.conditions.classes import SharedLink
from netctl.conditions.jitter import DelayTable, table, table_steps
from netctl.conditions.link import FRAME_HEADER_BYTES, DirectionConditions

_ORDER_KEEPING_BYTES_PER_S = 12_500_000_000
"""Without a rate netem sorts by due time and so reorders; any rate makes it keep the order."""
_DELAYED_PACKETS = 200_000
_SPACED_PACKETS = 10_000
_BURST_S = 0.001
_LARGEST_QUANTUM_BYTES = 200_000
"""The kernel warns of larger ones: weights more uneven than that are as even in what is borrowed."""
_CODEL_TARGET_US, _CODEL_INTERVAL_US = 5_000, 100_000

FREE_BPS = 100_000_000_000
"""A rate that nothing here reaches."""

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


def spacing(conditions: DirectionConditions) -> Tree:
    """What stands behind a metered tree, on an interface of its own: a netem of the same rate.

    A meter lets a packet that comes alone pass at once; on a link it takes its time to be sent. Hardly
    anything queues here: what comes is metered already.
    """
    rate_bps = FREE_BPS if conditions.rate_bps is None else conditions.rate_bps
    return Tree(qdiscs.Netem(limit=_SPACED_PACKETS, rate_bytes_per_s=max(1, round(rate_bps / 8))))


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
            each for match in one.match for each in matching_filters(match, FIRST_CLASS + number)
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
