"""Whom a caller may see and hand work to: a coordinator its team, an operator every device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from airloom.errors import PermissionDeniedError, UnreachableError
from airloom.identity import Caller, Role
from cloud_agent.fleet.registry import ConnectedDevice, Registry


class Teams:
    """The devices that each coordinator has to do with, by name."""

    def __init__(self, teams: Mapping[str, Sequence[str]]) -> None:
        self._teams = {name: frozenset(devices) for name, devices in teams.items()}

    def visible(self, caller: Caller, devices: Iterable[ConnectedDevice]) -> list[ConnectedDevice]:
        """The devices that a caller may list.

        Raises:
            PermissionDeniedError: it is neither a coordinator nor an operator.
        """
        caller.require(Role.COORDINATOR, to="list devices")
        return [device for device in devices if self._reaches(caller, device.device_id)]

    def check(self, caller: Caller, device_id: str) -> None:
        """Raise PermissionDeniedError unless a caller may hand work to a device, connected or not."""
        caller.require(Role.COORDINATOR, to="hand tasks to devices")
        if not self._reaches(caller, device_id):
            raise PermissionDeniedError(
                f"{device_id!r} is not of the team of {caller.name!r}: the cloud's setting fleet.teams "
                f"has {', '.join(sorted(self._teams.get(caller.name, ()))) or 'nobody'} in it"
            )

    def device(self, caller: Caller, device_id: str, registry: Registry) -> ConnectedDevice:
        """The device that a caller may hand work to.

        Raises:
            PermissionDeniedError: the caller has not that role, or the device is not of its team.
            UnreachableError: the device is not connected; names those of the team that are.
        """
        self.check(caller, device_id)
        device = registry.get(device_id)
        if device is None:
            present = [one.device_id for one in self.visible(caller, registry)]
            raise UnreachableError(
                f"device {device_id!r} is not connected; connected now: "
                f"{', '.join(present[:20]) or 'none'}{' …' if len(present) > 20 else ''}"
            )
        return device

    def _reaches(self, caller: Caller, device_id: str) -> bool:
        return Role.OPERATOR in caller.roles or device_id in self._teams.get(caller.name, ())
