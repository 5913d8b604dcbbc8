"""Links by name: conditions with the public source of their figures, some of them over time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import yaml
from pydantic import Field, TypeAdapter

from airloom.errors import ConfigurationError
from airloom.settings_file import Settings
from netctl.conditions.link import LinkConditions
from netctl.conditions.settings import Basis, DirectionSettings, Duration, MomentSettings
from netctl.conditions.timeline import repeated


class _Entry(Settings):
    basis: Basis
    source: str
    uplink: DirectionSettings
    downlink: DirectionSettings
    timeline: list[MomentSettings] = Field(default_factory=list)
    period: Duration | None = None


@dataclass(frozen=True, slots=True)
class Profile:
    """A link by name."""

    name: str
    basis: Basis
    source: str
    conditions: LinkConditions
    timeline: tuple[tuple[float, LinkConditions], ...] = ()
    """What holds from so many milliseconds on; empty where nothing changes."""
    period_ms: float | None = None


@cache
def profiles() -> dict[str, Profile]:
    """All of them, by name."""
    text = (files("netctl.conditions") / "library.yaml").read_text(encoding="utf-8")
    entries = TypeAdapter(dict[str, _Entry]).validate_python(yaml.safe_load(text))
    found = {}
    for name, entry in entries.items():
        first = LinkConditions(entry.uplink.conditions(), entry.downlink.conditions())
        timeline = [(moment.at, moment.of(first)) for moment in entry.timeline]
        found[name] = Profile(
            name,
            entry.basis,
            entry.source,
            first,
            repeated(first, timeline, entry.period),
            entry.period,
        )
    return found


def profile(name: str) -> Profile:
    """One by name; ConfigurationError lists the names where there is no such."""
    try:
        return profiles()[name]
    except KeyError:
        raise ConfigurationError(
            f"there is no profile {name!r}; there are {', '.join(profiles())}"
        ) from None
