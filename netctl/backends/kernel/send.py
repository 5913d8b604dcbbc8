"""Make, change and remove a tree in the kernel."""

from __future__ import annotations

from airloom.errors import LinkError
from netctl.backends.kernel import netlink as nl
from netctl.backends.kernel import qdiscs
from netctl.backends.kernel.filters import Filter, exempting_filters, two_bands
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
    SHARED,
    TC_H_ROOT,
)
from netctl.backends.kernel.netlink import Netlink, TrafficControl
from netctl.backends.kernel.read_back import own_roots
from netctl.backends.kernel.tree import Branch, Tree

Request = tuple[int, TrafficControl, int]
"""Kind, message and flags."""


def install(netlink: Netlink, interface: str, planned: Tree) -> None:
    """Put a tree where there is none of ours; LinkError where the kernel refuses.

    What was begun is taken away again where a later part is refused.
    """
    index = netlink.index(interface)
    root, *others = _requests(index, planned, nl.NLM_F_CREATE | nl.NLM_F_EXCL)
    # Where that is refused nothing was begun, and what is there is another holder's.
    netlink.request(*root)
    try:
        for request in others:
            netlink.request(*request)
    except LinkError:
        remove(netlink, index)
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
        meter = TrafficControl(index, METER, TC_H_ROOT, 0, "htb", qdiscs.htb_root(1))
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
            first + number * NEXT_QDISC for first in (FIRST_NETEM, FIRST_QUEUE)
        )
        own = FIRST_CLASS + number
        requests += _branch(index, above, own, netem_handle, queue_handle, branch, flags)
    return requests


def _netem_alone(index: int, planned: Tree, flags: int) -> list[Request]:
    assert planned.netem is not None
    qdisc, parent = nl.RTM_NEWQDISC, TC_H_ROOT
    requests = []
    if planned.exempt:
        parent = BANDS | 2
        if flags:
            bands = TrafficControl(index, BANDS, TC_H_ROOT, 0, "prio", two_bands())
            filters = tuple(exempting_filters(planned.exempt, BANDS | 1))
            requests = [(qdisc, bands, flags), *_filtering(index, BANDS, filters, flags)]
    netem = TrafficControl(
        index, NETEM, parent, 0, "netem", planned.netem.encode(changing=not flags)
    )
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
        netem = TrafficControl(
            index, netem_handle, own, 0, "netem", branch.netem.encode(changing=not flags)
        )
        requests.append((nl.RTM_NEWQDISC, netem, flags))
        own = netem_handle | 1
    waiting = TrafficControl(index, queue_handle, own, 0, queue.kind, queue.encode())
    return [*requests, (nl.RTM_NEWQDISC, waiting, flags)]


def remove(netlink: Netlink, index: int) -> bool:
    """Take our tree off the interface of this number; False where there is none of ours."""
    ours = own_roots(netlink, index)
    for qdisc in ours:
        netlink.request(
            nl.RTM_DELQDISC, TrafficControl(index, qdisc.handle, TC_H_ROOT, 0, qdisc.kind)
        )
    return bool(ours)
