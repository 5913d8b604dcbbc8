"""Links carried by a process of ours: over TUN, or over AF_PACKET where TUN is not to be had."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from airloom.errors import UnsupportedConditionError
from netctl.backends.base import AIR_NAMESPACE, Command, LinkPlan, LinkSpec, veth_commands
from netctl.backends.capabilities import Capabilities
from netctl.conditions.link import LinkConditions
from netctl.json_data import to_json


class UserspaceBackend:
    """`netctl link` between two TUN interfaces, or between the inner ends of two veth pairs."""

    def __init__(self, port: Literal["tun", "packet"]) -> None:
        self._port = port

    @property
    def name(self) -> str:
        return f"userspace-{self._port}"

    def missing(self, capabilities: Capabilities) -> str | None:
        return capabilities.tun if self._port == "tun" else capabilities.packet_socket

    def plan(self, spec: LinkSpec) -> LinkPlan:
        for way in (spec.conditions.uplink, spec.conditions.downlink):
            if way.queue_discipline == "codel" and way.rate_bps is None:
                raise UnsupportedConditionError(
                    "CoDel manages a queue, and without a rate there is none"
                )
        if self._port == "tun":
            ends = (
                f"{spec.device_namespace}/{spec.device_interface}",
                f"{spec.cloud_namespace}/{spec.cloud_interface}",
            )
        else:
            ends = (f"{AIR_NAMESPACE}/{spec.name}-d", f"{AIR_NAMESPACE}/{spec.name}-c")
        process: Command = (
            "netctl", "link",
            "--device", f"{self._port}:{ends[0]}",
            "--cloud", f"{self._port}:{ends[1]}",
            "--uplink", to_json(spec.conditions.uplink),
            "--downlink", to_json(spec.conditions.downlink),
            "--seed", str(spec.seed),
            *(("--control", _control(spec)) if spec.varying else ()),
        )  # fmt: skip
        if self._port == "packet":
            return LinkPlan(veth_commands(spec), process)
        addressing: list[Command] = []
        for namespace, interface, address in (
            (spec.device_namespace, spec.device_interface, spec.device_address),
            (spec.cloud_namespace, spec.cloud_interface, spec.cloud_address),
        ):
            addressing += [
                ("ip", "-n", namespace, "address", "add", address, "dev", interface),
                ("ip", "-n", namespace, "link", "set", interface, "up"),
            ]
        return LinkPlan((), process, tuple(addressing))

    def changes(self, spec: LinkSpec, conditions: LinkConditions) -> tuple[Command, ...]:
        return (("netctl", "order", _control(spec), to_json(conditions)),)

    def differences(self, spec: LinkSpec, shown: Sequence[Any]) -> list[str]:
        del spec, shown
        # The process computes with the very numbers it was given.
        return []


def _control(spec: LinkSpec) -> str:
    """Where the process takes orders: in the /run of the sandbox that the link is in."""
    return f"/run/netctl-{spec.name}.sock"
