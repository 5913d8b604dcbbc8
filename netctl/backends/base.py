"""What every link backend is given and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from netctl.backends.capabilities import Capabilities
from netctl.conditions.link import LinkConditions

Command = tuple[str, ...]

AIR_NAMESPACE = "air"
"""Where the middle of a veth-based link lives, apart from both ends."""


@dataclass(frozen=True, slots=True)
class LinkSpec:
    """One point-to-point link between a device's and the cloud's network namespace."""

    name: str
    device_namespace: str
    cloud_namespace: str
    device_address: str
    cloud_address: str
    conditions: LinkConditions
    seed: int
    device_interface: str = "air0"
    varying: bool = False
    """Whether its conditions will be changed while it lasts."""

    @property
    def cloud_interface(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class LinkPlan:
    """The exact operations that make a link.

    `commands` run in order and undo themselves when their namespaces go. `process`, where there
    is one, carries the packets: it must run before `after_process` and as long as the link.
    """

    commands: tuple[Command, ...]
    process: Command | None = None
    after_process: tuple[Command, ...] = ()
    read_back: tuple[Command, ...] = ()
    """Commands whose JSON output shows what the kernel made of it."""


class LinkBackend(Protocol):
    """One way to make a shaped link."""

    @property
    def name(self) -> str: ...

    def missing(self, capabilities: Capabilities) -> str | None:
        """Say what this kernel or user lacks for it; None where nothing."""

    def plan(self, spec: LinkSpec) -> LinkPlan:
        """Plan a link; raises UnsupportedConditionError for what cannot be represented."""

    def changes(self, spec: LinkSpec, conditions: LinkConditions) -> tuple[Command, ...]:
        """The operations that give a varying link other conditions, packets in it being kept."""

    def differences(self, spec: LinkSpec, shown: Sequence[Any]) -> list[str]:
        """Say how what the plan's `read_back` commands showed differs from what was asked for."""


def namespace_commands(names: Sequence[str]) -> tuple[Command, ...]:
    """Make network namespaces, each with its loopback up."""
    return tuple(
        command
        for name in names
        for command in (
            ("ip", "netns", "add", name),
            ("ip", "-n", name, "link", "set", "lo", "up"),
        )
    )


def veth_commands(spec: LinkSpec) -> tuple[Command, ...]:
    """Two veth pairs, device–air and air–cloud, addressed at the outer ends, offloads off."""
    device, cloud = f"{spec.name}-d", f"{spec.name}-c"
    commands: list[Command] = []
    for inner, namespace, interface, address in (
        (device, spec.device_namespace, spec.device_interface, spec.device_address),
        (cloud, spec.cloud_namespace, spec.cloud_interface, spec.cloud_address),
    ):
        commands += [
            ("ip", "-n", AIR_NAMESPACE, "link", "add", inner, "type", "veth",
             "peer", "name", interface, "netns", namespace),
            ("netctl", "offloads", "off", f"{namespace}/{interface}"),
            ("netctl", "offloads", "off", f"{AIR_NAMESPACE}/{inner}"),
            ("ip", "-n", AIR_NAMESPACE, "link", "set", inner, "up"),
            ("ip", "-n", namespace, "address", "add", address, "dev", interface),
            ("ip", "-n", namespace, "link", "set", interface, "up"),
        ]  # fmt: skip
    return tuple(commands)
