"""A scene of cells and stations that move among them, as a file, and the traces that come of it."""

from __future__ import annotations

import zlib
from collections import Counter
from typing import Annotated, Literal

from pydantic import Field, model_validator

from airloom.settings_file import Settings
from airloom.units import parse_dbm, parse_frequency_mhz, parse_speed_m_per_s
from netctl.conditions.settings import Duration, Rate, with_unit
from netctl.radio.cell import Cell, RadioState, Station, conditions, share_airtime
from netctl.radio.mobility import Mobility, Position, Recorded, Static, random_waypoint, waypoints
from netctl.radio.propagation import LogDistance
from netctl.radio.rates import Cellular, RateTable, WiFi
from netctl.traces.trace import ConditionStep, ConditionTrace

Power = Annotated[float, with_unit(parse_dbm)]
Frequency = Annotated[int, with_unit(parse_frequency_mhz)]
Speed = Annotated[float, with_unit(parse_speed_m_per_s)]


class CellSettings(Settings):
    """A base station or access point."""

    name: str
    position: Position = Field(description="metres: [x, y]")
    power: Power = 30.0
    frequency: Frequency = 2000
    bandwidth: Frequency = 20
    exponent: float = Field(3.5, gt=1, description="of the path loss: 2 is free space")

    def cell(self) -> Cell:
        loss = LogDistance(self.frequency * 1e6, self.exponent)
        return Cell(self.name, self.position, self.power, loss, self.bandwidth * 1e6)


class WaypointSettings(Settings):
    """From point to point at one speed, then it stays."""

    points: list[Position] = Field(min_length=2)
    speed: Speed


class RandomSettings(Settings):
    """To random points of an area, at random speeds, with pauses."""

    area: Position = Field(description="metres: [width, height]")
    slowest: Speed
    fastest: Speed
    pause: Duration = 0.0


class StationSettings(Settings):
    """A station, and how it moves: one of position, waypoints, random and recorded."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$", description="of its trace's file")
    position: Position | None = None
    waypoints: WaypointSettings | None = None
    random: RandomSettings | None = None
    recorded: list[tuple[Duration, Position]] | None = Field(None, min_length=1)
    demand: Rate | None = Field(None, description="what it wants of a cell; all where not given")

    @model_validator(mode="after")
    def _one_way_to_move(self) -> StationSettings:
        ways = ("position", "waypoints", "random", "recorded")
        if sum(getattr(self, way) is not None for way in ways) != 1:
            raise ValueError(f"a station has one of {', '.join(ways)}")
        return self

    def mobility(self, duration_s: float, seed: int) -> Mobility:
        """Its path; ValueError where there is none such."""
        if self.position is not None:
            return Static(self.position)
        if self.waypoints is not None:
            return waypoints(self.waypoints.points, self.waypoints.speed)
        if self.recorded is not None:
            return Recorded(tuple((at_ms / 1e3, place) for at_ms, place in self.recorded))
        assert self.random is not None
        speeds = (self.random.slowest, self.random.fastest)
        return random_waypoint(self.random.area, speeds, self.random.pause / 1e3, duration_s, seed)


class Scene(Settings):
    """Everything that radio links come of."""

    technology: Literal["cellular", "wifi"] = "cellular"
    seed: int = 1
    duration: Duration
    step: Duration = 100.0
    delay: Duration = Field(5.0, description="one way, of the network behind the radio as well")
    shadowing_db: float = Field(6.0, ge=0)
    decorrelation_m: float = Field(20.0, gt=0)
    rician_k: float = Field(3.0, ge=0)
    doppler_hz: float = Field(5.0, ge=0)
    hysteresis_db: float = Field(3.0, ge=0)
    handover_gap: Duration = 50.0
    cells: list[CellSettings] = Field(min_length=1)
    stations: list[StationSettings] = Field(min_length=1)

    @model_validator(mode="after")
    def _possible(self) -> Scene:
        for what, names in (
            ("cells", [one.name for one in self.cells]),
            ("stations", [one.name for one in self.stations]),
        ):
            if doubled := [name for name, count in Counter(names).items() if count > 1]:
                raise ValueError(f"two {what} are called {doubled[0]!r}")
        if not 0 < self.step * 2 <= self.duration:
            raise ValueError("the duration must be two steps at least")
        for one in self.stations:
            one.mobility(self.duration / 1e3, self.seed)
        return self


def traces(scene: Scene) -> dict[str, ConditionTrace]:
    """What each station's link is over time, by its name.

    Stations of one cell share its airtime; what a station does not want, others get.
    """
    cells = [one.cell() for one in scene.cells]
    stations = {
        one.name: Station(
            one.mobility(scene.duration / 1e3, _seed(scene, one.name)),
            cells,
            _table(scene, cells[0]),
            shadowing_db=scene.shadowing_db,
            decorrelation_m=scene.decorrelation_m,
            rician_k=scene.rician_k,
            doppler_hz=scene.doppler_hz,
            hysteresis_db=scene.hysteresis_db,
            handover_gap_s=scene.handover_gap / 1e3,
            seed=_seed(scene, one.name),
        )
        for one in scene.stations
    }
    demands = {one.name: float(one.demand) for one in scene.stations if one.demand is not None}
    steps: dict[str, list[ConditionStep]] = {name: [] for name in stations}
    for number in range(round(scene.duration / scene.step)):
        start_ms = number * scene.step
        states = {name: station.at(start_ms / 1e3) for name, station in stations.items()}
        for name, got_bps in _shared(states, demands).items():
            c = conditions(states[name], got_bps, delay_ms=scene.delay)
            rate_bps = float(c.rate_bps or 0) if c.up else 0.0
            steps[name].append(ConditionStep(start_ms, rate_bps, c.delay_ms, c.loss))
    return {name: ConditionTrace(tuple(each), scene.duration) for name, each in steps.items()}


def _seed(scene: Scene, name: str) -> int:
    """Of a station: it meets the same shadows whoever else is there."""
    return scene.seed * 1_000_003 + zlib.crc32(name.encode())


def _table(scene: Scene, cell: Cell) -> RateTable:
    return WiFi() if scene.technology == "wifi" else Cellular(cell.bandwidth_hz)


def _shared(states: dict[str, RadioState], demands: dict[str, float]) -> dict[str, float]:
    """What each station gets of its cell."""
    got: dict[str, float] = {}
    for cell in {state.cell for state in states.values()}:
        rates = {
            name: 0.0 if state.handing_over else state.rate.rate_bps
            for name, state in states.items()
            if state.cell == cell
        }
        got |= share_airtime(rates, {n: demands[n] for n in rates if n in demands})
    return got
