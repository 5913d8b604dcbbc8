"""Certificates of one authority for whoever a test needs, and what they connect with."""

from __future__ import annotations

from pathlib import Path

from airloom.identity import Role
from testbed.certificates import issue, make_authority

__all__ = ["Identities"]

ROLES = {
    "cloud": [Role.CLOUD],
    "operator": [Role.OPERATOR],
    "coordinator": [Role.COORDINATOR],
    "board-a": [],
    "board-b": [],
}


class Identities:
    """cloud, operator, coordinator, board-a and board-b; each may listen on the loopback."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        make_authority(folder)
        for name, roles in ROLES.items():
            issue(folder, name, ["localhost", "127.0.0.1"], roles=roles)

    def files(self, name: str) -> dict[str, str]:
        """The fields of a TransportSecurity, for settings files and in memory alike."""
        return {
            "ca": str(self.folder / "ca.crt"),
            "certificate": str(self.folder / f"{name}.crt"),
            "key": str(self.folder / f"{name}.key"),
        }
