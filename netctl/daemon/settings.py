"""What a board's link daemon is told."""

from __future__ import annotations

from pydantic import Field

from airloom.security import ServerSecurity
from airloom.settings_file import Settings


class DaemonSettings(Settings):
    """Of `netctl serve`."""

    listen: str = Field("0.0.0.0:50071", description="HOST:PORT, or unix:PATH")
    security: ServerSecurity = Field(
        description="ca, certificate and key for mutual TLS, or plaintext: true"
    )
    interfaces: list[str] = Field(
        min_length=1, description="which may be held; not the one that the controller comes by"
    )
