"""What a shaped direction is made of in the kernel: plan, install, change, read back, compare.

Usually a single netem. Where the rate will vary, or the queue is counted in bytes or managed by
CoDel, an HTB class meters what a netem has delayed: netem fixes a packet's departure when it is
queued, HTB when it leaves, so only HTB follows a rate that changes.

    htb a1f3: ── class a1f3:1 ── netem a1f1: ── bfifo, pfifo or codel a1f2:

Where some traffic is exempt, all of that hangs from the second band of a prio a1f0:, and filters send
what is exempt to the first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal

from netctl.conditions import FRAME_HEADER_BYTES, DirectionConditions
from netctl.jitter import DelayTable, table, table_steps
from netctl.kernel import netlink as nl
from netctl.kernel import qdiscs
from netctl.kernel.filters import Exemption, exempting_filters, shown_exemptions, two_bands
from netctl.kernel.netlink import Netlink, TrafficControl
from protos.errors import LinkError, UnsupportedConditionError

BANDS, NETEM, QUEUE, METER = 0xA1F0_0000, 0xA1F1_0000, 0xA1F2_0000, 0xA1F3_0000
"""Handles of what is made here: what bears another is somebody else's and is never touched."""
CLASS = METER | 1
_ROOTS = (BANDS, METER, NETEM)
_TC_H_ROOT = 0xFFFFFFFF
_ORDER_KEEPING_BYTES_PER_S = 12_500_000_000
"""Without a rate netem sorts by due time and so reorders; any rate makes it keep the order."""
_DELAYED_PACKETS = 200_000
_BURST_S = 0.001
_CODEL_TARGET_US, _CODEL_INTERVAL_US = 5_000, 100_000

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
class Tree:
    """All that one direction needs in the kernel."""

    netem: qdiscs.Netem
    rate: qdiscs.HtbClass | None = None
    queue: Queue | None = None
    exempt: tuple[Exemption, ...] = ()
    """What passes unshaped, ahead of everything."""


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
) -> Tree:
    """Plan a direction; `varying`: its rate will be changed while packets queue.

    Raises:
        UnsupportedConditionError: the kernel cannot represent it.
    """
    c = conditions
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
    assert c.rate_bps is not None
    if c.queue_discipline == "codel":
        queue = Queue("codel", c.limit_packets)
    elif c.queue_packets is not None:
        queue = Queue("pfifo", c.queue_packets)
    else:
        queue = Queue("bfifo", c.queue_limit_bytes or 0)
    return Tree(netem, htb_class(c.rate_bps, c.mtu_bytes), queue, exempt)


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


def _requests(index: int, planned: Tree, flags: int) -> list[tuple[int, TrafficControl, int]]:
    """What makes a tree (flags to create), or changes one (no flags), from the root on."""
    qdisc = nl.RTM_NEWQDISC
    parent = _TC_H_ROOT
    requests = []
    if planned.exempt:
        parent = BANDS | 2
        # The bands and the HTB above its class have nothing that a change would change.
        if flags:
            bands = TrafficControl(index, BANDS, _TC_H_ROOT, 0, "prio", two_bands())
            requests.append((qdisc, bands, flags))
            # Before anything is delayed: what is exempt is so from the first moment.
            requests += [
                (nl.RTM_NEWTFILTER, message, flags)
                for message in exempting_filters(index, BANDS, BANDS | 1, planned.exempt)
            ]
    netem = planned.netem.encode()
    if planned.rate is None:
        requests.append((qdisc, TrafficControl(index, NETEM, parent, 0, "netem", netem), flags))
    else:
        assert planned.queue is not None
        queue = planned.queue
        if flags:
            meter = TrafficControl(index, METER, parent, 0, "htb", qdiscs.htb_root(1))
            requests.append((qdisc, meter, flags))
        rate = TrafficControl(index, CLASS, METER, 0, "htb", planned.rate.encode())
        requests += [
            (nl.RTM_NEWTCLASS, rate, flags & ~nl.NLM_F_EXCL),
            (qdisc, TrafficControl(index, NETEM, CLASS, 0, "netem", netem), flags),
            (
                qdisc,
                TrafficControl(index, QUEUE, NETEM | 1, 0, queue.kind, queue.encode()),
                flags,
            ),
        ]
    return requests


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
    if NETEM not in shown or shown[NETEM].kind != "netem":
        return None
    netem = qdiscs.Netem.decode(shown[NETEM].options)
    exempt: tuple[Exemption, ...] = ()
    if BANDS in shown:
        exempt = shown_exemptions(netlink.dump(nl.RTM_GETTFILTER, index, BANDS))
    if METER not in shown:
        return Tree(netem, exempt=exempt)
    classes = [one for one in netlink.dump(nl.RTM_GETTCLASS, index) if one.handle == CLASS]
    rate = qdiscs.HtbClass.decode(classes[0].options) if classes else None
    queue = None
    if QUEUE in shown:
        kind, options = shown[QUEUE].kind, shown[QUEUE].options
        limit = qdiscs.codel_limit(options) if kind == "codel" else qdiscs.fifo_limit(options)
        queue = Queue(kind, limit)  # type: ignore[arg-type]
    return Tree(netem, rate, queue, exempt)


def describe(planned: Tree) -> str:
    """A tree for people: what is set, in the kernel's units, parts separated by semicolons."""

    def written(part: Any) -> str:
        values = {field.name: getattr(part, field.name) for field in fields(part)}
        shown = {name: value for name, value in values.items() if value}
        if "table" in shown:
            shown["table"] = f"of {len(shown['table'])}"
        return ", ".join(f"{name} {value}" for name, value in shown.items())

    parts = [f"netem {written(planned.netem)}"]
    if planned.rate is not None:
        parts.append(f"htb {written(planned.rate)}")
    if planned.queue is not None:
        parts.append(f"{planned.queue.kind} limit {planned.queue.limit}")
    if planned.exempt:
        parts.append(f"exempt {', '.join(f'{e.protocol}/{e.port}' for e in planned.exempt)}")
    return "; ".join(parts)


def differences(asked: Tree, shown: Tree | None) -> list[str]:
    """How what the kernel shows differs from what was asked of it, in the kernel's units."""
    if shown is None:
        return ["there is no netem of ours"]
    asked = replace(asked, exempt=tuple(sorted(asked.exempt)))
    return _differences("", asked, shown)


_NOT_SHOWN = {"table", "burst_bytes"}
"""The kernel keeps a delay table to itself, and a burst as time of limited precision."""


def _differences(path: str, asked: Any, shown: Any) -> list[str]:
    if asked is None or shown is None or not is_dataclass(asked):
        if isinstance(asked, float) and isinstance(shown, float):
            # Chances have 32 bits.
            same = math.isclose(asked, shown, rel_tol=1e-6, abs_tol=1e-9)
        else:
            same = asked == shown
        return [] if same else [f"{path} is {shown}, not {asked}"]
    if type(asked) is not type(shown):
        return [f"{path} is {shown}, not {asked}"]
    found = []
    for field in fields(asked):
        if field.name not in _NOT_SHOWN:
            name = f"{path}.{field.name}" if path else field.name
            found += _differences(name, getattr(asked, field.name), getattr(shown, field.name))
    return found
