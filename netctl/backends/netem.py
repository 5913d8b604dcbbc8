"""Links shaped by the kernel's own qdiscs, in a namespace between the two ends.

A direction with a rate passes two of them: an HTB over a netem meters what was delayed, its queue counted
as asked, in bytes or packets; then a netem of the same rate spaces what comes, so that a packet that comes
alone takes its time to be sent as well. The first sits on a veth pair of its own:

    device ── NAME-d ⇒ NAME-u ── NAME-v ⇒ NAME-c ── cloud      (up; down by NAME-x and NAME-y)

A direction without a rate needs one netem, on the interface to the other end. All sit on interfaces that
only forward: a netem on the sender's own interface would disturb TCP's small queues.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from netctl.backends.base import AIR_NAMESPACE, Command, LinkPlan, LinkSpec, veth_commands
from netctl.backends.capabilities import Capabilities
from netctl.backends.kernel.read_back import differences
from netctl.backends.kernel.tree import Tree, metered, spacing, tree
from netctl.conditions.link import DirectionConditions, LinkConditions
from netctl.json_data import from_python, to_json


class NetemBackend:
    """sch_netem and sch_htb on the egress of forwarding veth interfaces."""

    name = "netem"

    def missing(self, capabilities: Capabilities) -> str | None:
        return capabilities.netem or capabilities.htb or capabilities.ingress

    def plan(self, spec: LinkSpec) -> LinkPlan:
        commands: list[Command] = [*veth_commands(spec)]
        places: list[str] = []
        for way in _ways(spec, spec.conditions):
            at = way.source
            if way.meter is not None:
                commands += _pair(*way.meter)
                commands += _redirection(at, way.meter[0])
                at = way.meter[1]
            for place, planned in way.trees:
                commands.append(("netctl", "tree", "install", place, to_json(planned)))
                places.append(place)
            commands += _redirection(at, way.target)
        read_back = tuple(("netctl", "tree", "show", place) for place in places)
        return LinkPlan(tuple(commands), read_back=read_back)

    def changes(self, spec: LinkSpec, conditions: LinkConditions) -> tuple[Command, ...]:
        return tuple(
            ("netctl", "tree", "change", place, to_json(planned))
            for way in _ways(spec, conditions)
            for place, planned in way.trees
        )

    def differences(self, spec: LinkSpec, shown: Sequence[Any]) -> list[str]:
        asked = [
            (way.name, planned) for way in _ways(spec, spec.conditions) for _, planned in way.trees
        ]
        return [
            f"{name}: {difference}"
            for (name, planned), one in zip(asked, shown, strict=True)
            for difference in differences(planned, None if one is None else from_python(Tree, one))
        ]


@dataclass(frozen=True, slots=True)
class _Way:
    """What one direction passes in the middle."""

    name: str
    source: str
    """Where its packets come in."""
    meter: tuple[str, str] | None
    """The veth pair that the meter sits on, and its far end."""
    target: str
    """Where they leave."""
    trees: tuple[tuple[str, Tree], ...]
    """By place, in the order in which packets pass them."""


def _ways(spec: LinkSpec, conditions: LinkConditions) -> list[_Way]:
    name = spec.name
    return [
        _way("uplink", f"{name}-d", (f"{name}-u", f"{name}-v"), f"{name}-c", spec, conditions.uplink),
        _way("downlink", f"{name}-c", (f"{name}-x", f"{name}-y"), f"{name}-d", spec, conditions.downlink),
    ]  # fmt: skip


def _way(
    way: str,
    source: str,
    pair: tuple[str, str],
    target: str,
    spec: LinkSpec,
    conditions: DirectionConditions,
) -> _Way:
    there = f"{AIR_NAMESPACE}/{target}"
    # Of the same parts for all conditions that a varying link may get.
    if conditions.rate_bps is None and not spec.varying:
        return _Way(way, source, None, target, ((there, tree(conditions)),))
    meter = tree(metered(conditions), varying=True)
    trees = ((f"{AIR_NAMESPACE}/{pair[0]}", meter), (there, spacing(conditions)))
    return _Way(way, source, pair, target, trees)


def _pair(near: str, far: str) -> tuple[Command, ...]:
    """A veth pair in the middle, both ends of it; nobody has an address there."""
    ip = ("ip", "-n", AIR_NAMESPACE, "link")
    commands: list[Command] = [(*ip, "add", near, "type", "veth", "peer", "name", far)]
    for one in (near, far):
        commands += [
            (*ip, "set", one, "addrgenmode", "none"),
            ("netctl", "offloads", "off", f"{AIR_NAMESPACE}/{one}"),
            (*ip, "set", one, "up"),
        ]
    return tuple(commands)


def _redirection(source: str, target: str) -> tuple[Command, ...]:
    """Send what comes in at one interface out at another."""
    tc = ("tc", "-n", AIR_NAMESPACE)
    return (
        (*tc, "qdisc", "add", "dev", source, "ingress"),
        (*tc, "filter", "add", "dev", source, "parent", "ffff:", "protocol", "all",
         "u32", "match", "u32", "0", "0", "action", "mirred", "egress", "redirect", "dev", target),
    )  # fmt: skip
