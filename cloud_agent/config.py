"""The cloud agent's settings, read from one YAML file."""

from __future__ import annotations

from pydantic import Field

from device_agent.config import ModelSettings
from device_agent.security import TransportSecurity
from device_agent.yaml_file import Settings


class CloudAgentSettings(Settings):
    """Everything a cloud agent is told."""

    cloud_id: str = Field("cloud", pattern=r"^[A-Za-z0-9_.-]+$")
    listen: str = Field("0.0.0.0:50051", description="host:port that devices dial")
    security: TransportSecurity
    local_socket: str | None = Field(
        None, description="path of a Unix socket for operators on this machine"
    )
    model: ModelSettings
    heartbeat_interval_s: float = Field(2.0, gt=0)
    synchronised_clocks: bool = Field(
        False, description="the devices' clocks and this one agree (PTP, same machine)"
    )
