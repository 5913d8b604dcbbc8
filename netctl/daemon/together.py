"""Several boards change at one moment, and how far apart they were is known."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from airloom.errors import LinkError
from airloom.security import TransportSecurity
from netctl.conditions.link import DirectionConditions
from netctl.conditions.timeline import moments
from netctl.daemon.client import Board, Change, ClockOffset, HeldInterface

LEAD_S = 1.0
"""A change is sent so long before its moment: longer than any control link's delay."""


@dataclass(frozen=True, slots=True)
class Place:
    """An interface of a board: `HOST:PORT/INTERFACE`."""

    address: str
    interface: str

    @classmethod
    def parse(cls, text: str) -> Place:
        """Read one; ValueError where it is not one."""
        address, slash, interface = text.rpartition("/")
        if not slash or not interface or ":" not in address:
            raise ValueError(f"{text!r} is not HOST:PORT/INTERFACE (for example pi1:50071/wlan0)")
        return cls(address, interface)

    def __str__(self) -> str:
        return f"{self.address}/{self.interface}"


@dataclass(frozen=True, slots=True)
class CommonChange:
    """A change of all places at one moment."""

    at_s: float
    """Of our time.time()."""
    late_ms: dict[str, float]
    """Each board's own word, by place."""
    skew_ms: float
    """Between the first and the last of them, by those words."""
    uncertainty_ms: float
    """By which the skew may be more: clocks were compared over links that take time."""


def common_change(
    at_s: float, changes: dict[str, Change], clocks: Sequence[ClockOffset]
) -> CommonChange:
    """Sum a change up; LinkError where a kernel has other than what was asked for."""
    for place, change in changes.items():
        if change.differences:
            raise LinkError(
                f"{place} is not shaped as it was asked to be: {'; '.join(change.differences)}"
            )
    late = {place: change.late_ms for place, change in changes.items()}
    doubts = sorted((clock.uncertainty_s * 1e3 for clock in clocks), reverse=True)
    uncertainty_ms = sum(doubts[:2]) if len(doubts) > 1 else 0.0
    return CommonChange(at_s, late, max(late.values()) - min(late.values()), uncertainty_ms)


async def shape_together(
    places: Sequence[Place],
    conditions: DirectionConditions,
    *,
    security: TransportSecurity,
    timeline: Sequence[tuple[float, DirectionConditions]] = (),
    period_ms: float | None = None,
    duration_s: float = math.inf,
    lease_s: float = 10.0,
    exempt: Sequence[str] = (),
    incoming: bool = False,
    on_change: Callable[[CommonChange], None],
) -> None:
    """Shape interfaces of several boards alike until cancelled or the time is over; then restore.

    `timeline` and `period_ms` are as for `netctl.interface.shape.shape`, counted from the first change.

    Raises:
        LinkError: one of them cannot be had or was lost; all are restored.
        UnreachableError: a board does not answer.
    """
    async with contextlib.AsyncExitStack() as stack:
        boards = {
            address: await stack.enter_async_context(Board(address, security))
            for address in {place.address: None for place in places}
        }
        held: dict[Place, HeldInterface] = {}
        for place in places:
            held[place] = await stack.enter_async_context(
                boards[place.address].hold(
                    place.interface, lease_s=lease_s, exempt=exempt, incoming=incoming
                )
            )

        async def change(wanted: DirectionConditions, at_s: float) -> None:
            readings = await asyncio.gather(*(board.clock_offset() for board in boards.values()))
            clocks = dict(zip(boards, readings, strict=True))
            answers = await asyncio.gather(
                *(
                    one.change(wanted, at_s=at_s + clocks[place.address].offset_s)
                    for place, one in held.items()
                )
            )
            changes = {str(place): answer for place, answer in zip(held, answers, strict=True)}
            on_change(common_change(at_s, changes, readings))

        async def follow() -> None:
            begin_s = time.time() + LEAD_S
            await change(conditions, begin_s)
            for at_ms, wanted in moments(timeline, period_ms):
                at_s = begin_s + at_ms / 1e3
                if wanted is None or at_s >= begin_s + duration_s:
                    break
                await asyncio.sleep(max(0.0, at_s - LEAD_S - time.time()))
                await change(wanted, at_s)
            await asyncio.sleep(begin_s + duration_s - time.time())

        # Whichever fails first ends all: a board that let go must not go unnoticed.
        work = [asyncio.create_task(follow())]
        work += [asyncio.create_task(one.lost()) for one in held.values()]
        try:
            done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
