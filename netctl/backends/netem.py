"""Links shaped by the kernel's own netem qdisc, in a namespace between the two ends.

Both qdiscs sit on interfaces that only forward: a netem on the sender's own interface would
disturb TCP's small queues.
"""

from __future__ import annotations

from netctl.backends.base import AIR_NAMESPACE, Command, LinkPlan, LinkSpec, veth_commands
from netctl.capabilities import Capabilities
from netctl.conditions import DirectionConditions

_ORDER_KEEPING_RATE = "100gbit"


def netem_arguments(conditions: DirectionConditions) -> tuple[str, ...]:
    """Write conditions as tc's netem arguments; all of them, since a change keeps the omitted."""
    jittered = conditions.rate_bps is None and conditions.jitter_ms > 0
    rate = f"{conditions.rate_bps}bit" if conditions.rate_bps is not None else None
    # Without a rate netem sorts by due time and so reorders; any rate makes it keep the order.
    rate = _ORDER_KEEPING_RATE if jittered else rate
    arguments = ["limit", str(conditions.limit_packets)]
    arguments += [
        "delay",
        f"{conditions.delay_ms * 1e3:.0f}us",
        f"{conditions.jitter_ms * 1e3:.0f}us",
    ]
    arguments += ["loss", "random", f"{conditions.loss * 100:.6f}%"]
    if rate is not None:
        arguments += ["rate", rate]
    return tuple(arguments)


class NetemBackend:
    """sch_netem on the egress of two forwarding veth interfaces."""

    name = "netem"

    def missing(self, capabilities: Capabilities) -> str | None:
        return capabilities.netem or capabilities.ingress

    def plan(self, spec: LinkSpec) -> LinkPlan:
        device, cloud = f"{spec.name}-d", f"{spec.name}-c"
        tc = ("tc", "-n", AIR_NAMESPACE)
        commands: list[Command] = [*veth_commands(spec)]
        for source, target, conditions in (
            (device, cloud, spec.conditions.uplink),
            (cloud, device, spec.conditions.downlink),
        ):
            commands += [
                (*tc, "qdisc", "add", "dev", target, "root", "netem", *netem_arguments(conditions)),
                (*tc, "qdisc", "add", "dev", source, "ingress"),
                (*tc, "filter", "add", "dev", source, "parent", "ffff:", "protocol", "all",
                 "u32", "match", "u32", "0", "0",
                 "action", "mirred", "egress", "redirect", "dev", target),
            ]  # fmt: skip
        read_back = tuple(
            ("tc", "-j", "-n", AIR_NAMESPACE, "qdisc", "show", "dev", interface, "root")
            for interface in (cloud, device)
        )
        return LinkPlan(tuple(commands), read_back=read_back)
