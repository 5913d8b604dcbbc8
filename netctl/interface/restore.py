"""Undo what holders left, and find what of ours nobody holds."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from dataclasses import dataclass

from airloom.errors import LinkError
from netctl.backends.kernel import read_back, send
from netctl.backends.kernel.netlink import Netlink
from netctl.interface import ingress
from netctl.interface.lease import Lease, leases, leases_here, lock_owner, locked, now_s, read
from netctl.interface.wifi import WiFi
from netctl.linux import (
    all_network_namespaces_are_seen,
    find_network_namespace,
    network_namespace,
    network_namespace_number,
)

_PATIENCE_S = 1.0
_POLL_S = 0.05


def release(lease: Lease, *, only_lapsed: bool = False) -> bool:
    """Take what is ours and the lease away; False where there was nothing of ours.

    One process at a time does that, and none where the interface has another holder by now: there
    can be none before the file is gone, which goes last. `only_lapsed`: not where the holder has
    renewed it in the meantime.
    """
    _fence(lease)
    with locked():
        present = read(lease.path)
        if present is None or not lease.same_holder(present) or (only_lapsed and present.held):
            return False
        return _undo(present)


def restore() -> list[str]:
    """Undo what dead or silent holders left, in whichever namespace; return the interfaces restored."""
    return [
        lease.interface for lease in leases() if not lease.held and release(lease, only_lapsed=True)
    ]


def _fence(lease: Lease) -> None:
    """End a holder that was stopped inside the lock.

    Its lease has run out, and while it is stopped there nobody could take or restore any interface.
    """
    began_s = now_s()
    while lease.holder.pid != os.getpid() and lock_owner() == lease.holder.pid:
        present = read(lease.path)
        if present is None or not lease.same_holder(present) or not lease.holder.alive:
            return
        if now_s() > max(began_s, present.ends_s) + _PATIENCE_S:
            os.kill(lease.holder.pid, signal.SIGKILL)
            return
        time.sleep(_POLL_S)


def _undo(lease: Lease) -> bool:
    if lease.namespace == network_namespace_number():
        return _undo_here(lease)
    place = find_network_namespace(lease.namespace)
    if place is None:
        if all_network_namespaces_are_seen():
            # It is gone, and with it all that was in it.
            lease.path.unlink(missing_ok=True)
        return False
    with contextlib.suppress(PermissionError), network_namespace(place):
        return _undo_here(lease)
    return False


def _undo_here(lease: Lease) -> bool:
    removed = False
    if lease.kind == "radio":
        assert lease.radio is not None
        assert lease.radio_before is not None
        # The radio itself may be gone.
        with contextlib.suppress(LinkError), WiFi() as wifi:
            wifi.restore(lease.interface, lease.radio_before, lease.radio)
            removed = True
    else:
        with Netlink() as netlink:
            if lease.kind == "incoming":
                removed = ingress.undo(netlink, lease.index)
            else:
                removed = send.remove(netlink, lease.index)
    lease.path.unlink(missing_ok=True)
    return removed


@dataclass(frozen=True, slots=True)
class Orphan:
    """Something that netctl made, and that no lease tells of."""

    interface: str
    index: int
    what: str


def orphans() -> list[Orphan]:
    """What of ours nobody holds in the present network namespace."""
    with locked(), Netlink() as netlink:
        return _orphans(netlink)


def remove_orphans() -> list[Orphan]:
    """Take them away; return what was there."""
    with locked(), Netlink() as netlink:
        found = _orphans(netlink)
        for one in found:
            send.remove(netlink, one.index)
            ingress.undo(netlink, one.index)
            ingress.delete_ifb(one.interface)
        return found


def _orphans(netlink: Netlink) -> list[Orphan]:
    held = {(lease.index, lease.kind) for lease in leases_here()}
    ifbs = {ingress.ifb_name(index) for index, kind in held if kind == "incoming"}
    found = []
    for index, name in socket.if_nameindex():
        if ingress.is_ifb_name(name):
            if name not in ifbs:
                found.append(Orphan(name, index, "an ifb"))
            continue
        if (index, "leaving") not in held and read_back.own_roots(netlink, index):
            found.append(Orphan(name, index, "a tree"))
        if (index, "incoming") not in held and ingress.redirected(netlink, index):
            found.append(Orphan(name, index, "a filter of what arrives"))
    return found
