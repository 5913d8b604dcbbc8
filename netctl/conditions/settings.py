"""Conditions as people write them in YAML: every quantity is text with its unit."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from airloom.settings_file import Settings
from airloom.units import parse_bytes, parse_fraction, parse_rate_bps, parse_time_ms
from netctl.conditions.classes import MOST_CLASSES, Match, Protocol, SharedLink, TrafficClass
from netctl.conditions.jitter import DelayTable, Distribution
from netctl.conditions.link import DirectionConditions, LinkConditions, QueueDiscipline, Slots
from netctl.conditions.loss import FourState, GilbertElliott


def with_unit(parse: Any) -> BeforeValidator:
    """Read a field by a parser of text with a unit; anything else is refused."""

    def read(value: object) -> object:
        if not isinstance(value, str):
            raise ValueError(f"{value!r} has no unit; write it as text with a unit")
        return parse(value)

    return BeforeValidator(read)


Rate = Annotated[int, with_unit(parse_rate_bps)]
Duration = Annotated[float, with_unit(parse_time_ms)]
Fraction = Annotated[float, with_unit(parse_fraction)]
Bytes = Annotated[int, with_unit(parse_bytes)]


class BurstSettings(Settings):
    """Losses in bursts: `{share: 2 %, mean_packets: 5}`."""

    share: Fraction
    mean_packets: float = Field(ge=1, description="how long a burst is on average")


class GilbertElliottSettings(Settings):
    """netem's gemodel, by its probabilities."""

    p: Fraction = Field(description="from good to bad, with each packet")
    r: Fraction = Field(description="from bad to good")
    loss_bad: Fraction = 1.0
    loss_good: Fraction = 0.0


class FourStateSettings(Settings):
    """netem's loss state, by its probabilities."""

    p13: Fraction
    p31: Fraction
    p32: Fraction = 0.0
    p23: Fraction = 1.0
    p14: Fraction = 0.0


class SlotSettings(Settings):
    """Packets leave in batches."""

    shortest: Duration
    longest: Duration
    packets: int = Field(0, ge=0, description="in one slot; 0 is any number")
    bytes: Bytes = 0


class QueueSettings(Settings):
    """How long the queue before the rate is: one of time, bytes and packets."""

    time: Duration | None = None
    bytes: Bytes | None = None
    packets: int | None = Field(None, ge=1)
    discipline: QueueDiscipline = "drop-tail"

    @model_validator(mode="after")
    def _one_length(self) -> QueueSettings:
        given = [name for name in ("time", "bytes", "packets") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"a queue has one length, not {' and '.join(given)}")
        return self


class DirectionSettings(Settings):
    """One direction of a link, with units: `rate: 12 Mbit/s`, `delay: 20 ms`, `loss: 1 %`."""

    rate: Rate | None = Field(None, description="unlimited where not given")
    delay: Duration = 0.0
    jitter: Duration = 0.0
    distribution: Distribution = "uniform"
    delay_samples: list[Duration] | None = Field(
        None, description="measured delays, in place of delay, jitter and distribution"
    )
    jitter_correlation: Fraction = 0.0
    in_order: bool = True
    loss: Fraction = 0.0
    bursts: BurstSettings | None = None
    gilbert_elliott: GilbertElliottSettings | None = None
    four_state: FourStateSettings | None = None
    duplicate: Fraction = 0.0
    reorder: Fraction = 0.0
    corrupt: Fraction = 0.0
    slots: SlotSettings | None = None
    queue: Duration | QueueSettings = 200.0
    mtu: Bytes = 1500
    up: bool = Field(True, description="false is a dead zone: nothing comes through")

    @model_validator(mode="after")
    def _possible(self) -> DirectionSettings:
        models = ("bursts", "gilbert_elliott", "four_state")
        given = [name for name in models if getattr(self, name) is not None]
        if len(given) > 1 or (given and self.loss):
            raise ValueError(
                f"packets are lost in one way only, not by {' and '.join(['loss'] * bool(self.loss) + given)}"
            )
        if self.delay_samples is not None and (self.delay or self.jitter):
            raise ValueError("delay_samples stand in place of delay and jitter")
        self.conditions()
        return self

    def conditions(self) -> DirectionConditions:
        """The same in SI units; ValueError for what no link can be."""
        delay_ms, jitter_ms = self.delay, self.jitter
        distribution: Distribution | DelayTable = self.distribution
        if self.delay_samples is not None:
            delay_ms, jitter_ms, distribution = DelayTable.from_samples(self.delay_samples)
        queue = self.queue if isinstance(self.queue, QueueSettings) else QueueSettings()
        queue_ms = self.queue if isinstance(self.queue, float) else queue.time
        slots = self.slots
        return DirectionConditions(
            rate_bps=self.rate,
            delay_ms=delay_ms,
            jitter_ms=jitter_ms,
            loss=self.loss,
            queue_ms=200.0 if queue_ms is None else queue_ms,
            distribution=distribution,
            jitter_correlation=self.jitter_correlation,
            in_order=self.in_order,
            loss_model=self._loss_model(),
            duplicate=self.duplicate,
            reorder=self.reorder,
            corrupt=self.corrupt,
            slots=None
            if slots is None
            else Slots(slots.shortest, slots.longest, slots.packets, slots.bytes),
            queue_bytes=queue.bytes,
            queue_packets=queue.packets,
            queue_discipline=queue.discipline,
            mtu_bytes=self.mtu,
            up=self.up,
        )

    def _loss_model(self) -> GilbertElliott | FourState | None:
        if self.bursts is not None:
            return GilbertElliott.bursts(self.bursts.share, self.bursts.mean_packets)
        if self.gilbert_elliott is not None:
            return GilbertElliott(**self.gilbert_elliott.model_dump())
        if self.four_state is not None:
            return FourState(**self.four_state.model_dump())
        return None


class MomentSettings(Settings):
    """What is different, on both ways, from a time on; what is not named is as it was at first."""

    at: Duration
    rate: Rate | None = None
    delay: Duration | None = None
    loss: Fraction | None = None
    up: bool | None = None

    def on(self, conditions: DirectionConditions) -> DirectionConditions:
        """A direction at this moment; ValueError where no link can be so."""
        changed = conditions
        if self.rate is not None:
            changed = replace(changed, rate_bps=self.rate)
        if self.delay is not None:
            changed = replace(changed, delay_ms=self.delay)
        if self.loss is not None:
            changed = replace(changed, loss=self.loss, loss_model=None)
        if self.up is not None:
            changed = replace(changed, up=self.up)
        return changed

    def of(self, link: LinkConditions) -> LinkConditions:
        """Both directions at this moment."""
        return LinkConditions(self.on(link.uplink), self.on(link.downlink))


class MatchSettings(Settings):
    """Packets for which all that is given holds."""

    source: str | None = Field(None, description="an address or a prefix: 10.0.0.0/24")
    destination: str | None = None
    protocol: Protocol | None = None
    source_port: int | None = None
    destination_port: int | None = None
    mark: int | None = Field(None, description="of the socket (SO_MARK) or by the firewall")

    @model_validator(mode="after")
    def _possible(self) -> MatchSettings:
        Match(**self.model_dump())
        return self


class ClassSettings(DirectionSettings):
    """Conditions for what any of `match` takes."""

    match: list[MatchSettings] = Field(min_length=1)
    weight: float = Field(
        1.0, ge=0.01, le=100, description="its part of the shared rate, the others' being 1"
    )


class SharedLinkSettings(Settings):
    """A direction whose traffic is sorted into classes that share a rate."""

    rate: Rate | None = Field(None, description="what all share; nothing where not given")
    classes: dict[str, ClassSettings] = Field(min_length=1, max_length=MOST_CLASSES)
    others: DirectionSettings = DirectionSettings()

    @model_validator(mode="after")
    def _possible(self) -> SharedLinkSettings:
        self.link()
        return self

    def link(self) -> SharedLink:
        """The same in SI units."""
        classes = [
            TrafficClass(
                name,
                tuple(Match(**match.model_dump()) for match in one.match),
                one.conditions(),
                one.weight,
            )
            for name, one in self.classes.items()
        ]
        return SharedLink(tuple(classes), self.others.conditions(), self.rate)


Basis = Literal["measured", "standard", "chosen"]
