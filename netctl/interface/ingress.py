"""What arrives at an interface is shaped on an ifb that it is sent through.

The filter that sends it there bears our priority. An ingress qdisc is ours as long as that filter is in
it and no other; filters and qdiscs of anybody else stay, whenever they came.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct

from airloom.errors import LinkError
from netctl.backends import execute
from netctl.backends.kernel import netlink as nl
from netctl.backends.kernel.filters import redirection
from netctl.backends.kernel.netlink import Netlink, TrafficControl

_INGRESS_PARENT, _INGRESS_HANDLE = 0xFFFF_FFF1, 0xFFFF_0000
_PRIORITY = 0xA1F1
_EVERY_PROTOCOL = struct.unpack("=H", struct.pack("!H", 0x0003))[0]
_OURS = _PRIORITY << 16 | _EVERY_PROTOCOL
_IFB = re.compile(r"netctl\d+")


def ifb_name(index: int) -> str:
    """The device that only netctl makes, for the interface of this number."""
    return f"netctl{index}"


def is_ifb_name(name: str) -> bool:
    """Whether it is one of those."""
    return _IFB.fullmatch(name) is not None


def refuse_foreign_ingress(interface: str) -> None:
    """LinkError where somebody else looks at what arrives here already."""
    with Netlink() as netlink:
        for qdisc in netlink.dump(nl.RTM_GETQDISC, netlink.index(interface)):
            if qdisc.parent == _INGRESS_PARENT:
                raise _foreign(interface, qdisc.kind)


def _foreign(interface: str, kind: str) -> LinkError:
    return LinkError(
        f"{interface} already carries a {kind} qdisc that netctl did not make; it is left alone"
    )


def make_ifb(index: int) -> str:
    """Make the ifb of an interface; its name. LinkError where the kernel has no ifb."""
    name = ifb_name(index)
    execute.run(("ip", "link", "add", name, "type", "ifb"))
    execute.run(("ip", "link", "set", name, "up"))
    return name


def redirect(netlink: Netlink, interface: str, name: str) -> None:
    """From now on what arrives passes the ifb: to be called when it is shaped.

    Raises:
        LinkError: somebody else made an ingress qdisc meanwhile; it is as it was.
    """
    index = netlink.index(interface)
    options = redirection(netlink.index(name))
    created = nl.NLM_F_CREATE | nl.NLM_F_EXCL
    qdisc = TrafficControl(index, _INGRESS_HANDLE, _INGRESS_PARENT, 0, "ingress")
    taking = TrafficControl(index, 0, _INGRESS_HANDLE, _OURS, "u32", options)
    # In one system call: a qdisc of ours without our filter could not be told from somebody else's.
    refused, no_filter = netlink.attempt_all(
        [(nl.RTM_NEWQDISC, qdisc, created), (nl.RTM_NEWTFILTER, taking, created)]
    )
    if refused is not None:
        if no_filter is None:
            _delete_filter(netlink, index)
        if _ingress_kind(netlink, index) is None:
            raise refused
        raise _foreign(interface, _ingress_kind(netlink, index) or "ingress")
    if no_filter is not None:
        netlink.request(nl.RTM_DELQDISC, qdisc)
        raise no_filter


def redirected(netlink: Netlink, index: int) -> bool:
    """Whether our filter is there."""
    return any(one.info == _OURS for one in _filters(netlink, index))


def undo(netlink: Netlink, index: int) -> bool:
    """Take the ifb and our way to it away; False where there was neither."""
    removed = redirected(netlink, index)
    if removed:
        _delete_filter(netlink, index)
        if _ingress_kind(netlink, index) == "ingress" and not _filters(netlink, index):
            qdisc = TrafficControl(index, _INGRESS_HANDLE, _INGRESS_PARENT, 0, "ingress")
            netlink.request(nl.RTM_DELQDISC, qdisc)
    return delete_ifb(ifb_name(index)) or removed


def delete_ifb(name: str) -> bool:
    """Delete it where it is one of ours and there; whether it was."""
    if not is_ifb_name(name):
        return False
    with contextlib.suppress(OSError):
        socket.if_nametoindex(name)
        execute.run(("ip", "link", "del", "dev", name))
        return True
    return False


def _ingress_kind(netlink: Netlink, index: int) -> str | None:
    kinds = [
        one.kind for one in netlink.dump(nl.RTM_GETQDISC, index) if one.parent == _INGRESS_PARENT
    ]
    return kinds[0] if kinds else None


def _filters(netlink: Netlink, index: int) -> list[TrafficControl]:
    if _ingress_kind(netlink, index) is None:
        return []
    return netlink.dump(nl.RTM_GETTFILTER, index, _INGRESS_HANDLE)


def _delete_filter(netlink: Netlink, index: int) -> None:
    message = TrafficControl(index, 0, _INGRESS_HANDLE, _OURS, "u32")
    netlink.request(nl.RTM_DELTFILTER, message)
