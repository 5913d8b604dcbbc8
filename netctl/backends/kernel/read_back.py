"""What the kernel has of ours, compared with what was asked of it."""

from __future__ import annotations

import math
import struct
from dataclasses import fields, is_dataclass
from typing import Any

from airloom.errors import LinkError
from netctl.backends.kernel import netlink as nl
from netctl.backends.kernel import qdiscs
from netctl.backends.kernel.filters import Filter, shown_exemptions, shown_filters
from netctl.backends.kernel.handles import (
    BANDS,
    CLASS,
    FIRST_CLASS,
    FIRST_NETEM,
    FIRST_QUEUE,
    METER,
    NETEM,
    NEXT_QDISC,
    QUEUE,
    ROOTS,
    SHARED,
    TC_H_ROOT,
)
from netctl.backends.kernel.netlink import Netlink, TrafficControl
from netctl.backends.kernel.tree import Branch, Queue, Tree


def foreign_root(netlink: Netlink, interface: str) -> str | None:
    """Somebody else's explicit root qdisc, as `kind handle`; None where there is none.

    What the kernel puts there by itself has the handle 0.
    """
    for qdisc in netlink.dump(nl.RTM_GETQDISC, netlink.index(interface)):
        if qdisc.parent == TC_H_ROOT and qdisc.handle not in (0, *ROOTS):
            return f"{qdisc.kind} {qdisc.handle >> 16:x}:"
    return None


def own_roots(netlink: Netlink, index: int) -> list[TrafficControl]:
    """The root qdisc of ours on the interface of this number: one or none."""
    return [
        qdisc
        for qdisc in netlink.dump(nl.RTM_GETQDISC, index)
        if qdisc.parent == TC_H_ROOT and qdisc.handle in ROOTS
    ]


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
    if FIRST_CLASS in classes:
        for own in sorted(handle for handle in classes if handle >= FIRST_CLASS):
            after = (own - FIRST_CLASS) * NEXT_QDISC
            below = _shown_netem(shown.get(FIRST_NETEM + after))
            queue = _shown_queue(shown.get(FIRST_QUEUE + after))
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


_BASIC_STATISTICS, _QUEUE_STATISTICS = 1, 3
"""TCA_STATS_BASIC: u64 bytes, u32 packets; TCA_STATS_QUEUE: u32 packets, bytes, drops…"""


def sent(netlink: Netlink, index: int) -> tuple[int, int]:
    """The bytes that a tree's meter has sent since it was made, and those that wait for it."""
    found = netlink.statistics(nl.RTM_GETTCLASS, TrafficControl(index, CLASS, METER))
    (sent_bytes,) = struct.unpack_from("=Q", found[_BASIC_STATISTICS])
    _, backlog_bytes = struct.unpack_from("=2I", found[_QUEUE_STATISTICS])
    return sent_bytes, backlog_bytes


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
