"""Where a station is, at any time; metres and seconds."""

from __future__ import annotations

import itertools
import math
import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

Position = tuple[float, float]


class Mobility(Protocol):
    """A path over time."""

    def at(self, time_s: float) -> Position: ...


@dataclass(frozen=True, slots=True)
class Static:
    """Stays."""

    position: Position

    def at(self, time_s: float) -> Position:
        del time_s
        return self.position


@dataclass(frozen=True, slots=True)
class Recorded:
    """Passes points at their times, on straight lines; before the first and after the last it stays."""

    points: tuple[tuple[float, Position], ...]

    def __post_init__(self) -> None:
        times = [time for time, _ in self.points]
        if not times or any(b <= a for a, b in itertools.pairwise(times)):
            raise ValueError("a path needs points whose times increase")

    def at(self, time_s: float) -> Position:
        index = bisect_right([time for time, _ in self.points], time_s)
        if index == 0:
            return self.points[0][1]
        if index == len(self.points):
            return self.points[-1][1]
        (begin_s, (x, y)), (end_s, (to_x, to_y)) = self.points[index - 1 : index + 1]
        part = (time_s - begin_s) / (end_s - begin_s)
        return x + (to_x - x) * part, y + (to_y - y) * part


def waypoints(points: Sequence[Position], speed_m_per_s: float) -> Recorded:
    """Walk from point to point at one speed."""
    if speed_m_per_s <= 0:
        raise ValueError(f"a speed must be above zero, not {speed_m_per_s} m/s")
    timed, now_s = [(0.0, points[0])], 0.0
    for before, after in itertools.pairwise(points):
        leg_m = math.dist(before, after)
        if leg_m > 0:
            now_s += leg_m / speed_m_per_s
            timed.append((now_s, after))
    return Recorded(tuple(timed))


def random_waypoint(
    area_m: Position,
    speed_m_per_s: tuple[float, float],
    pause_s: float,
    duration_s: float,
    seed: int,
) -> Recorded:
    """Walk to random points of an area at random speeds, with pauses (Johnson and Maltz 1996)."""
    draw = random.Random(seed)

    def somewhere() -> Position:
        return draw.uniform(0, area_m[0]), draw.uniform(0, area_m[1])

    here, now_s = somewhere(), 0.0
    timed = [(0.0, here)]
    while now_s < duration_s:
        there = somewhere()
        now_s += math.dist(here, there) / draw.uniform(*speed_m_per_s)
        timed.append((now_s, there))
        if pause_s > 0:
            now_s += pause_s
            timed.append((now_s, there))
        here = there
    return Recorded(tuple(timed))
