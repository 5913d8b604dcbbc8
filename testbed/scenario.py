"""The language of scenarios: what is on the bench, which links join it, what is asked."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from device_agent.config import ModelSettings, RoutingSettings
from device_agent.yaml_file import Settings
from netctl.conditions import DirectionConditions, LinkConditions
from netctl.units import parse_fraction, parse_rate_bps, parse_time_ms
from testbed.questions.question import DOMAINS, LEVELS, Domain


def _text(parse: Any) -> BeforeValidator:
    def read(value: object) -> object:
        if not isinstance(value, str):
            raise ValueError(f"{value!r} has no unit; write it as text with a unit")
        return parse(value)

    return BeforeValidator(read)


Rate = Annotated[int, _text(parse_rate_bps)]
Duration = Annotated[float, _text(parse_time_ms)]
Fraction = Annotated[float, _text(parse_fraction)]


class DirectionSettings(Settings):
    """One direction of a link, with units: `rate: 12 Mbit/s`, `delay: 20 ms`, `loss: 1 %`."""

    rate: Rate | None = Field(None, description="unlimited where not given")
    delay: Duration = 0.0
    jitter: Duration = 0.0
    loss: Fraction = 0.0
    queue: Duration = 200.0

    @model_validator(mode="after")
    def _possible(self) -> DirectionSettings:
        self.conditions()
        return self

    def conditions(self) -> DirectionConditions:
        """The same in SI units; ValueError for what no link can be."""
        return DirectionConditions(self.rate, self.delay, self.jitter, self.loss, self.queue)


class LinkSettings(Settings):
    """Both directions of a device's link; up is from the device to the cloud."""

    kind: str = Field("link", description="what it stands for, such as Wi-Fi; shown in the report")
    uplink: DirectionSettings
    downlink: DirectionSettings

    def conditions(self) -> LinkConditions:
        """Both directions in SI units."""
        return LinkConditions(self.uplink.conditions(), self.downlink.conditions())


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
