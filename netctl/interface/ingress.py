"""What arrives at an interface is shaped on an ifb that it is sent through."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from airloom.errors import LinkError
from netctl.backends import execute
from netctl.backends.kernel import netlink as nl
from netctl.backends.kernel.netlink import Netlink

_INGRESS = 0xFFFF_FFF1


def ifb_name(interface: str) -> str:
    """The device that only netctl makes, for this interface."""
    with Netlink() as netlink:
        return f"netctl{netlink.index(interface)}"


def refuse_foreign_ingress(interface: str) -> None:
    """LinkError where somebody else looks at what arrives here already."""
    with Netlink() as netlink:
        for qdisc in netlink.dump(nl.RTM_GETQDISC, netlink.index(interface)):
            if qdisc.parent == _INGRESS:
                raise LinkError(
                    f"{interface} already carries a {qdisc.kind} qdisc that netctl did not make; it is "
                    "left alone"
                )


@contextmanager
def through_ifb(interface: str) -> Iterator[str]:
    """Send what arrives through an ifb until the block ends; gives the ifb's name.

    Raises:
        LinkError: the kernel has no ifb, or somebody else has an ingress qdisc here.
    """
    refuse_foreign_ingress(interface)
    name = ifb_name(interface)
    execute.run(("ip", "link", "add", name, "type", "ifb"))
    try:
        execute.run(("ip", "link", "set", name, "up"))
        yield name
    finally:
        undo(interface, name)


def redirect(interface: str, name: str) -> None:
    """From now on what arrives passes the ifb: to be called when it is shaped."""
    execute.run(("tc", "qdisc", "add", "dev", interface, "handle", "ffff:", "ingress"))
    execute.run(
        (
            "tc", "filter", "add", "dev", interface, "parent", "ffff:", "protocol", "all", "u32",
            "match", "u32", "0", "0", "action", "mirred", "egress", "redirect", "dev", name,
        )
    )  # fmt: skip


def undo(interface: str, name: str) -> bool:
    """Take the ifb and our way to it away; False where there is no such ifb."""
    try:
        execute.run(("ip", "link", "show", "dev", name))
    except LinkError:
        return False
    # While our ifb is there, an ingress qdisc is ours: we would not have begun beside another.
    with suppress(LinkError):
        execute.run(("tc", "qdisc", "del", "dev", interface, "ingress"))
    with suppress(LinkError):
        execute.run(("ip", "link", "del", "dev", name))
    return True
