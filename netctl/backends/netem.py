"""Links shaped by the kernel's own netem qdisc, in a namespace between the two ends.

Both qdiscs sit on interfaces that only forward: a netem on the sender's own interface would
disturb TCP's small queues.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

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


def kernel_values(conditions: DirectionConditions) -> dict[str, float]:
    """What `tc -j qdisc show` should say of conditions: seconds, bytes/s, fractions, packets."""
    return {
        "limit": conditions.limit_packets,
        "delay": conditions.delay_ms / 1e3,
        "jitter": conditions.jitter_ms / 1e3,
        "loss": conditions.loss,
        "rate": (conditions.rate_bps or 0) / 8,
    }


def shown_values(qdisc: dict[str, Any]) -> dict[str, float]:
    """Read the same out of one netem qdisc of `tc -j qdisc show`; what it leaves out is zero."""
    options = qdisc["options"]
    delay = options.get("delay", {})
    return {
        "limit": options.get("limit", 0),
        "delay": delay.get("delay", 0.0),
        "jitter": delay.get("jitter", 0.0),
        "loss": options.get("loss-random", {}).get("loss", 0.0),
        "rate": options.get("rate", {}).get("rate", 0),
    }


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

    def differences(self, spec: LinkSpec, shown: Sequence[Any]) -> list[str]:
        found = []
        both = (("uplink", spec.conditions.uplink), ("downlink", spec.conditions.downlink))
        for (way, conditions), qdiscs in zip(both, shown, strict=True):
            netem = [qdisc for qdisc in qdiscs or [] if qdisc["kind"] == "netem"]
            if len(netem) != 1:
                found.append(f"{way}: there is no netem qdisc")
                continue
            asked, told = kernel_values(conditions), shown_values(netem[0])
            if conditions.rate_bps is None:
                # Here a rate means only that the order is kept.
                del asked["rate"]
            found += [
                f"{way}: {name} is {told[name]:g}, not {value:g}"
                for name, value in asked.items()
                if not math.isclose(told[name], value, rel_tol=1e-4, abs_tol=1e-6)
            ]
        return found
