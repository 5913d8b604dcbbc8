"""The device agent's settings, read from one YAML file."""

from __future__ import annotations

import os
from typing import Literal

from pydantic import Field, model_validator

from device_agent.security import TransportSecurity
from device_agent.yaml_file import FilePath, Settings


class ModelSettings(Settings):
    """Which GGUF to run and how."""

    path: FilePath
    context_tokens: int = Field(
        4096, ge=64, description="at most; fewer where the model was trained with fewer"
    )
    threads: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1)
    queue_length: int = Field(64, ge=1)
    instruction: str = Field(
        "", description="added to every question, for models that must be told the answer's form"
    )
    max_tokens: int = Field(256, ge=1, description="where a task sets no limit")


class RoutingSettings(Settings):
    """When a device answers by itself."""

    measure: Literal["sequence_probability", "mean_probability", "min_margin"] = (
        "sequence_probability"
    )
    threshold: float = Field(0.5, ge=0, le=1, description="below it the question is sent up")


class CloudSettings(Settings):
    """Where the cloud agent listens and how often to try it."""

    address: str = Field(description="host:port")
    security: TransportSecurity
    connect_timeout_s: float = Field(10.0, gt=0)
    backoff_initial_s: float = Field(0.2, gt=0)
    backoff_max_s: float = Field(10.0, gt=0)
    synchronised_clock: bool = Field(
        False, description="the cloud's clock and this one agree (PTP, same machine)"
    )


class CurveSettings(Settings):
    """ZeroMQ key files (`testbed certificates` makes them)."""

    server_key: FilePath = Field(description="the reader's public key: NAME.key")
    certificate: FilePath = Field(description="this board's own keys: NAME.key_secret")


class TelemetrySettings(Settings):
    """Where to publish samples (ZeroMQ PUB, connecting)."""

    endpoint: str = Field(pattern=r"^(ipc|tcp)://.+")
    interval_s: float = Field(1.0, gt=0)
    curve: CurveSettings | None = None
    plaintext: bool = Field(False, description="send over tcp:// without encryption")

    @model_validator(mode="after")
    def _safe_over_tcp(self) -> TelemetrySettings:
        if self.endpoint.startswith("tcp://") and (self.curve is None) is not self.plaintext:
            raise ValueError("a tcp:// endpoint needs either curve or plaintext: true")
        return self


class DeviceSettings(Settings):
    """Everything a device agent is told."""

    device_id: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    listen: str = Field("127.0.0.1:50061", description="host:port or unix:/path for applications")
    listen_security: TransportSecurity
    model: ModelSettings
    routing: RoutingSettings = RoutingSettings()
    cloud: CloudSettings | None = None
    telemetry: TelemetrySettings | None = None
    link_epoch_file: FilePath | None = Field(
        None, description="holds the number of the link conditions in force"
    )
