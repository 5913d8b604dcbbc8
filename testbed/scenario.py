"""The language of scenarios: what is on the bench, which links join it, what is asked."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from airloom.settings_file import Settings
from collaboration.questions.question import DOMAINS, LEVELS, Domain
from collaboration.routing import RoutingSettings
from device_agent.config import ModelSettings
from netctl.conditions.settings import Duration
from netctl.traces.course import LinkSettings


class DeviceEntry(Settings):
    """A virtual board."""

    name: str = Field(pattern=r"^[a-z][a-z0-9-]{0,9}$", description="at most 10 characters")
    model: ModelSettings
    routing: RoutingSettings = RoutingSettings()
    link: LinkSettings


class CloudEntry(Settings):
    """The cloud side."""

    model: ModelSettings


class QuestionSettings(Settings):
    """The held-out questions that are asked, dealt evenly to the devices."""

    count: int = Field(60, ge=1)
    domains: tuple[Domain, ...] = DOMAINS
    levels: tuple[int, ...] = LEVELS
    deadline: Duration = 30_000.0
    max_tokens: int = Field(200, ge=1)


class Scenario(Settings):
    """A whole experiment."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    seed: int = 1
    backend: Literal["auto", "netem", "userspace-tun", "userspace-packet"] = "auto"
    security: Literal["mutual-tls", "plaintext"] = "mutual-tls"
    probes: int = Field(1000, ge=100, description="UDP probes that measure each direction's loss")
    cloud: CloudEntry
    devices: tuple[DeviceEntry, ...] = Field(min_length=1, max_length=60)
    questions: QuestionSettings = QuestionSettings()

    @model_validator(mode="after")
    def _distinct(self) -> Scenario:
        names = [device.name for device in self.devices]
        for name in ("air", "cloud"):
            if name in names:
                raise ValueError(f"a device cannot be called {name!r}: that name is taken")
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"two devices are called {doubled[0]!r}; names must differ")
        return self
