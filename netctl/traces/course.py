"""A link as people write it in YAML: its first conditions, and how they change."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, model_validator

from airloom.errors import ConfigurationError
from airloom.settings_file import FilePath, Settings
from netctl.conditions.link import LinkConditions
from netctl.conditions.profiles import profile
from netctl.conditions.settings import DirectionSettings, Duration, MomentSettings
from netctl.conditions.timeline import repeated
from netctl.traces.files import read_steps


@dataclass(frozen=True, slots=True)
class LinkCourse:
    """A link's first conditions, and what holds from so many milliseconds on."""

    first: LinkConditions
    timeline: tuple[tuple[float, LinkConditions], ...] = ()
    period_ms: float | None = None
    """After which the timeline begins again."""


class LinkSettings(Settings):
    """Both directions of a device's link; up is from the device to the cloud."""

    kind: str = Field("link", description="what it stands for, such as Wi-Fi; shown in the report")
    profile: str | None = Field(
        None, description="one of `netctl profiles`, in place of directions"
    )
    uplink: DirectionSettings | None = None
    downlink: DirectionSettings | None = None
    timeline: list[MomentSettings] = Field(
        default_factory=list, description="what changes later: `{at: 5 s, up: false}`"
    )
    period: Duration | None = Field(None, description="the timeline begins again after so long")
    trace: FilePath | None = Field(
        None, description="a CSV of time, rate, delay and loss in place of a timeline"
    )

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> LinkSettings:
        if self.profile is not None:
            if self.uplink or self.downlink or self.timeline or self.period or self.trace:
                raise ValueError("a profile stands in place of uplink, downlink and timeline")
        elif self.uplink is None or self.downlink is None:
            raise ValueError("a link needs uplink and downlink, or a profile")
        if self.trace is not None and (self.timeline or self.period is not None):
            raise ValueError("a trace stands in place of timeline and period")
        times_ms = [moment.at for moment in self.timeline]
        if times_ms != sorted(set(times_ms)):
            raise ValueError("a timeline's moments come one after another")
        if self.period is not None and (not times_ms or self.period <= times_ms[-1]):
            raise ValueError("a period is longer than its timeline")
        self.course()
        return self

    def course(self) -> LinkCourse:
        """Conditions in SI units, and how they change; ValueError for what no link can be."""
        if self.profile is not None:
            try:
                found = profile(self.profile)
            except ConfigurationError as error:
                raise ValueError(str(error)) from error
            return LinkCourse(found.conditions, found.timeline, found.period_ms)
        assert self.uplink is not None
        assert self.downlink is not None
        first = LinkConditions(self.uplink.conditions(), self.downlink.conditions())
        if self.trace is not None:
            return _traced(first, self.trace)
        timeline = [(moment.at, moment.of(first)) for moment in self.timeline]
        return LinkCourse(first, repeated(first, timeline, self.period), self.period)

    def conditions(self) -> LinkConditions:
        """Both directions in SI units, as they are at first."""
        return self.course().first


def _traced(first: LinkConditions, file: Path) -> LinkCourse:
    """Both ways as a table says; what it does not say is as it was at first."""
    trace = read_steps(file)
    timeline = []
    for step in trace.steps:
        try:
            link = LinkConditions(step.on(first.uplink), step.on(first.downlink))
        except ValueError as error:
            raise ConfigurationError(f"at {step.start_ms:g} ms: {error}", source=file) from error
        timeline.append((step.start_ms, link))
    if not (timeline[0][1].uplink.up and timeline[0][1].downlink.up):
        raise ConfigurationError(
            "it begins with a dead zone, in which the link cannot be measured", source=file
        )
    # The first step is there from the beginning, and comes again after the last.
    again = (trace.period_ms, timeline[0][1])
    return LinkCourse(timeline[0][1], (*timeline[1:], again), trace.period_ms)
