"""Links shaped by the kernel's own netem qdisc, in a namespace between the two ends.

Both qdiscs sit on interfaces that only forward: a netem on the sender's own interface would
disturb TCP's small queues.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from netctl.backends.base import AIR_NAMESPACE, Command, LinkPlan, LinkSpec, veth_commands
from netctl.backends.capabilities import Capabilities
from netctl.backends.kernel.read_back import differences
from netctl.backends.kernel.tree import Tree, metered, tree
from netctl.conditions.link import DirectionConditions, LinkConditions
from netctl.json_data import from_python, to_json


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
            place, planned = f"{AIR_NAMESPACE}/{target}", to_json(_tree(spec, conditions))
            commands += [
                ("netctl", "tree", "install", place, planned),
                (*tc, "qdisc", "add", "dev", source, "ingress"),
                (*tc, "filter", "add", "dev", source, "parent", "ffff:", "protocol", "all",
                 "u32", "match", "u32", "0", "0",
                 "action", "mirred", "egress", "redirect", "dev", target),
            ]  # fmt: skip
        read_back = tuple(
            ("netctl", "tree", "show", f"{AIR_NAMESPACE}/{interface}")
            for interface in (cloud, device)
        )
        return LinkPlan(tuple(commands), read_back=read_back)

    def changes(self, spec: LinkSpec, conditions: LinkConditions) -> tuple[Command, ...]:
        return tuple(
            ("netctl", "tree", "change", f"{AIR_NAMESPACE}/{target}", to_json(_tree(spec, one)))
            for target, one in (
                (f"{spec.name}-c", conditions.uplink),
                (f"{spec.name}-d", conditions.downlink),
            )
        )

    def differences(self, spec: LinkSpec, shown: Sequence[Any]) -> list[str]:
        both = (("uplink", spec.conditions.uplink), ("downlink", spec.conditions.downlink))
        return [
            f"{way}: {difference}"
            for (way, conditions), one in zip(both, shown, strict=True)
            for difference in differences(
                _tree(spec, conditions), None if one is None else from_python(Tree, one)
            )
        ]


def _tree(spec: LinkSpec, conditions: DirectionConditions) -> Tree:
    """Of the same parts for all conditions that a varying link may get."""
    return tree(metered(conditions), varying=True) if spec.varying else tree(conditions)
