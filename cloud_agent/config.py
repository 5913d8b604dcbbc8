"""The cloud agent's settings, read from one YAML file."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from airloom.grpc_server import ServerLimits
from airloom.identity import NAME_PATTERN
from airloom.security import ServerSecurity
from airloom.settings_file import FilePath, Settings
from airloom.stream import StreamLimits
from airloom.tracing import TracingSettings
from device_agent.config import (
    AnswerSettings,
    ModelSettings,
)
from device_agent.http.settings import HttpSettings


class ServerSettings(Settings):
    """A server that speaks OpenAI's API."""

    url: str = Field(pattern=r"^https?://", description="with the version: http://host:8000/v1")
    model: str = Field(description="as the server names it")
    weight: float = Field(1.0, gt=0, description="its share of the work relative to the others'")
    timeout_s: float = Field(120.0, gt=0, description="of one request; a task's deadline holds too")
    api_key_file: FilePath | None = Field(None, description="holds the key on its first line")


class ServersSettings(AnswerSettings):
    """Servers that answer instead of this process."""

    servers: list[ServerSettings] = Field(min_length=1, description="each with its share")
    check_interval_s: float = Field(5.0, gt=0, description="between two health checks of each")


Name = Annotated[str, Field(pattern=NAME_PATTERN)]


class FleetSettings(Settings):
    """Who may open streams and hand out work, and how much one device may hold."""

    teams: dict[Name, list[Name]] = Field(
        {}, description="the devices that each coordinator may list and hand tasks to"
    )
    registration_timeout_s: float = Field(
        10.0, gt=0, description="until a new stream must have said who it is"
    )
    streams: int = Field(4096, ge=1, description="at once; more are refused")
    unregistered_streams: int = Field(
        4, ge=1, description="of one certificate that have not registered yet"
    )
    asks_in_flight: int = Field(128, ge=1, description="of one device; more are refused")
    assignments_in_flight: int = Field(64, ge=1, description="of one device; more are refused")
    bytes_in_flight: int = Field(
        16 << 20, ge=1 << 16, description="of one device's asks, and of its assignments"
    )
    grace_s: float = Field(
        30.0,
        ge=0,
        description="for how long an ask goes on when its stream broke, for the device to come back",
    )
    stream: StreamLimits = Field(StreamLimits(), description="of each stream: as the devices'")


class CloudAgentSettings(Settings):
    """Everything a cloud agent is told."""

    cloud_id: str = Field("cloud", pattern=NAME_PATTERN, description="what answers call it")
    listen: str = Field("0.0.0.0:50051", description="host:port that devices dial")
    security: ServerSecurity
    local_socket: str | None = Field(
        None, description="path of a Unix socket for operators on this machine"
    )
    model: ModelSettings | None = Field(None, description="the model that this process runs …")
    engines: ServersSettings | None = Field(None, description="… or the servers that answer")
    http: HttpSettings | None = Field(
        None, description="serve OpenAI's API as well; only with a model of its own"
    )
    tracing: TracingSettings | None = Field(None, description="send OpenTelemetry spans")
    heartbeat_interval_s: float = Field(
        4.0, ge=0.01, le=3600, description="three of them in silence, and a device counts as lost"
    )
    fleet: FleetSettings = FleetSettings()
    limits: ServerLimits = Field(ServerLimits(), description="of the gRPC server")
    synchronised_clocks: bool = Field(
        False, description="the devices' clocks and this one agree (PTP, same machine)"
    )

    @model_validator(mode="after")
    def _one_source(self) -> CloudAgentSettings:
        if (self.model is None) is (self.engines is None):
            raise ValueError("exactly one of `model` and `engines` is needed")
        if self.http is not None and self.model is None:
            raise ValueError("`http` needs `model`: ask the servers of `engines` themselves")
        return self
