"""The device agent's settings, read from one YAML file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import psutil
from pydantic import Field, model_validator

from airloom.errors import ConfigurationError
from airloom.grpc_server import ServerLimits
from airloom.identity import NAME_PATTERN
from airloom.security import ServerSecurity, TransportSecurity
from airloom.settings_file import FilePath, Settings
from airloom.stream import StreamLimits
from airloom.tracing import TracingSettings
from collaboration.routing import RoutingSettings
from device_agent.http.settings import HttpSettings


def physical_cores() -> int:
    """Cores that compute in parallel: a second thread of one adds nothing to matrix products."""
    return psutil.cpu_count(logical=False) or os.cpu_count() or 1


def read_secret(path: Path | None) -> str:
    """Read the one line of a key file, empty where no file is set.

    Raises:
        ConfigurationError: the file cannot be read, or is empty.
    """
    if path is None:
        return ""
    try:
        key = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigurationError(f"cannot be read: {error.strerror}", source=path) from error
    if not key:
        raise ConfigurationError("is empty: it should hold the key", source=path)
    return key


class AnswerSettings(Settings):
    """How tasks are put to a model."""

    instruction: str = Field(
        "", description="added to every question, for models that must be told the answer's form"
    )
    max_tokens: int = Field(256, ge=1, description="where a task sets no limit")


class AdapterFile(Settings):
    """A LoRA adapter that tasks may name."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$", description="what tasks call it")
    path: FilePath = Field(description="a LoRA GGUF file for the model")


class ModelSettings(AnswerSettings):
    """Which GGUF to run and how; `device-agent doctor` says what suits a board."""

    path: FilePath = Field(description="a GGUF file")
    name: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:/@+ -]{0,127}$",
        description="what the model is called in answers and over HTTP; without, as its file says",
    )
    chat_template: FilePath | None = Field(
        None, description="a Jinja file, instead of the template in the model's file"
    )
    chat_template_fallback: Literal["chatml", "plain"] | None = Field(
        None, description="for a model's file without a template, or with one that cannot be used"
    )
    embeddings: bool = Field(
        True, description="embed texts too; their context's memory is counted before loading"
    )
    context_tokens: int = Field(
        4096, ge=64, description="of each generation, at most; fewer where trained with fewer"
    )
    parallel: int = Field(4, ge=1, le=64, description="generations at once")
    threads: int = Field(
        default_factory=physical_cores,
        ge=1,
        description="that compute; without, as many as there are cores",
    )
    batch_tokens: int = Field(512, ge=16, description="of one pass through the model")
    stall_ms: float = Field(
        500.0, gt=0, description="for how long reading a prompt may hold up running generations"
    )
    stream_interval_ms: float = Field(
        10.0,
        ge=0,
        le=1000,
        description="what a stream says within this time after its last piece is sent as one piece: "
        "fewer and larger packets; 0 sends each token by itself",
    )
    queue_length: int = Field(64, ge=0, description="requests that wait for a place")
    key_value_type: Literal["f32", "f16", "q8_0", "q4_0"] = Field(
        "f16", description="of the context's memory; q8_0 halves it"
    )
    adapters: list[AdapterFile] = Field(default=[], description="LoRA GGUF files to load")
    adapter_contexts: int = Field(
        1,
        ge=1,
        le=16,
        description="with more than one, adapters get a context each, up to so many less one: "
        "changing between them costs nothing, but each needs a context's memory",
    )
    projector: FilePath | None = Field(
        None, description="multimodal projector (mmproj GGUF) for models that read images"
    )
    draft: FilePath | None = Field(
        None, description="a smaller GGUF with the same vocabulary, to draft tokens ahead"
    )
    draft_tokens: int = Field(4, ge=1, le=32, description="drafted at a time")


class CloudSettings(Settings):
    """Where the cloud agent listens and how often to try it."""

    address: str = Field(description="host:port")
    security: TransportSecurity
    connect_timeout_s: float = Field(10.0, gt=0, description="until the cloud's welcome")
    backoff_initial_s: float = Field(
        0.2, gt=0, description="the first wait before dialling again is at most this long"
    )
    backoff_max_s: float = Field(
        10.0, gt=0, description="waits double with each failure, up to this"
    )
    wait_s: float = Field(
        5.0, ge=0, description="for how long an ask without a deadline waits for a stream"
    )
    asks_in_flight: int = Field(64, ge=1, description="that the cloud has at once")
    asks_waiting: int = Field(1024, ge=0, description="for their turn; more are refused")
    assignments_in_flight: int = Field(
        128, ge=1, description="that this device takes from the cloud at once"
    )
    stream: StreamLimits = Field(StreamLimits(), description="of the stream: as the cloud's")
    synchronised_clock: bool = Field(
        False, description="the cloud's clock and this one agree (PTP, same machine)"
    )


class CurveSettings(Settings):
    """ZeroMQ key files (`testbed certificates` makes them)."""

    server_key: FilePath = Field(description="the reader's public key: NAME.key")
    certificate: FilePath = Field(description="this board's own keys: NAME.key_secret")


class TelemetrySettings(Settings):
    """Where to publish samples (ZeroMQ PUB, connecting)."""

    endpoint: str = Field(pattern=r"^(ipc|tcp)://.+", description="tcp://host:port, or ipc://path")
    interval_s: float = Field(1.0, gt=0, description="between two samples")
    curve: CurveSettings | None = None
    plaintext: bool = Field(False, description="send over tcp:// without encryption")

    @model_validator(mode="after")
    def _safe_over_tcp(self) -> TelemetrySettings:
        if self.endpoint.startswith("tcp://") and (self.curve is None) is not self.plaintext:
            raise ValueError("a tcp:// endpoint needs either curve or plaintext: true")
        return self


class DeviceSettings(Settings):
    """Everything a device agent is told."""

    device_id: str = Field(pattern=NAME_PATTERN, description="as the certificate says it")
    listen: str = Field("127.0.0.1:50061", description="host:port or unix:/path for applications")
    listen_security: ServerSecurity
    limits: ServerLimits = Field(ServerLimits(), description="of the gRPC server")
    model: ModelSettings
    routing: RoutingSettings = RoutingSettings()
    cloud: CloudSettings | None = None
    telemetry: TelemetrySettings | None = None
    http: HttpSettings | None = Field(None, description="serve OpenAI's API as well")
    tracing: TracingSettings | None = Field(None, description="send OpenTelemetry spans")
    link_epoch_file: FilePath | None = Field(
        None, description="holds the number of the link conditions in force"
    )
