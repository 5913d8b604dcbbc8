"""Stations that share a cell's airtime, and stations that move between cells."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from netctl.conditions.link import DirectionConditions
from netctl.radio.mobility import Mobility, Position
from netctl.radio.propagation import LogDistance, RicianFading, Shadowing, noise_dbm
from netctl.radio.rates import Rate, RateTable


def share_airtime(
    rates_bps: Mapping[str, float], demands_bps: Mapping[str, float]
) -> dict[str, float]:
    """What each station gets where all share one medium, by max-min fairness of airtime.

    A station at a low rate needs more of the time for the same data: it does not get more time than
    the others, so it does not slow them down. Shares of the airtime add up to 1 at most.
    """
    wanted = {
        name: min(1.0, demands_bps.get(name, math.inf) / rate)
        for name, rate in rates_bps.items()
        if rate > 0
    }
    shares = dict.fromkeys(rates_bps, 0.0)
    left, waiting = 1.0, sorted(wanted, key=lambda name: wanted[name])
    while waiting:
        name = waiting[0]
        shares[name] = min(wanted[name], left / len(waiting))
        left -= shares[name]
        waiting = waiting[1:]
    return {name: shares[name] * rates_bps[name] for name in rates_bps}


@dataclass(frozen=True, slots=True)
class Cell:
    """A base station or access point."""

    name: str
    position: Position
    transmit_dbm: float
    path_loss: LogDistance
    bandwidth_hz: float
    noise_figure_db: float = 7.0

    def snr_db(self, at: Position, gain_db: float = 0.0) -> float:
        """Of this cell as received at a position; `gain_db` is shadowing and fading there."""
        received = (
            self.transmit_dbm - self.path_loss.loss_db(math.dist(self.position, at)) + gain_db
        )
        return received - noise_dbm(self.bandwidth_hz, self.noise_figure_db)


@dataclass(frozen=True, slots=True)
class RadioState:
    """What a station's radio link is at a time."""

    time_s: float
    cell: str
    snr_db: float
    rate: Rate
    handing_over: bool


class Station:
    """Moves among cells, and hands over to one that is better by a margin (3GPP's event A3)."""

    def __init__(
        self,
        mobility: Mobility,
        cells: Sequence[Cell],
        table: RateTable,
        *,
        shadowing_db: float = 6.0,
        decorrelation_m: float = 20.0,
        rician_k: float = 3.0,
        doppler_hz: float = 5.0,
        hysteresis_db: float = 3.0,
        handover_gap_s: float = 0.05,
        seed: int = 0,
    ) -> None:
        if not cells:
            raise ValueError("a station needs a cell")
        self._mobility, self._cells, self._table = mobility, cells, table
        self._hysteresis_db, self._gap_s = hysteresis_db, handover_gap_s
        self._shadowing = [
            Shadowing(shadowing_db, decorrelation_m, 1000 * seed + i) for i in range(len(cells))
        ]
        self._fading = RicianFading(rician_k, doppler_hz, 1000 * seed + 999)
        self._serving = -1
        self._gap_ends_s = -math.inf
        self._before: tuple[float, Position] | None = None

    def at(self, time_s: float) -> RadioState:
        """The state at a time; to be asked in order."""
        here = self._mobility.at(time_s)
        before_s, there = self._before or (time_s, here)
        self._before = (time_s, here)
        moved_m = math.dist(there, here)
        # Shadowing decides on handover; fading is too quick for that, and comes on top.
        slow = [
            cell.snr_db(here, shadowing.after_m(moved_m))
            for cell, shadowing in zip(self._cells, self._shadowing, strict=True)
        ]
        best = max(range(len(slow)), key=lambda i: slow[i])
        if self._serving < 0:
            self._serving = best
        elif slow[best] > slow[self._serving] + self._hysteresis_db:
            self._serving, self._gap_ends_s = best, time_s + self._gap_s
        snr_db = slow[self._serving] + self._fading.after_s(time_s - before_s)
        return RadioState(
            time_s,
            self._cells[self._serving].name,
            snr_db,
            self._table.at(snr_db),
            time_s < self._gap_ends_s,
        )


_RETRANSMISSION_MS = 8.0
"""An LTE HARQ round trip; Wi-Fi's is shorter, but waits for the medium as well."""
_LEAST_BPS = 1000


def conditions(
    state: RadioState,
    got_bps: float | None = None,
    *,
    delay_ms: float = 5.0,
    retransmissions: int = 3,
) -> DirectionConditions:
    """A radio state as conditions: failed transmissions cost rate and delay; the last failure is loss.

    `got_bps` is the station's part of a shared cell; None is all of it.
    """
    rate_bps = state.rate.rate_bps if got_bps is None else got_bps
    if state.handing_over or rate_bps < _LEAST_BPS:
        return DirectionConditions(delay_ms=delay_ms, up=False)
    error = state.rate.error
    tries = sum(error**n for n in range(retransmissions + 1))
    waits_ms = _RETRANSMISSION_MS * (tries - 1)
    return DirectionConditions(
        rate_bps=max(_LEAST_BPS, round(rate_bps / tries)),
        delay_ms=delay_ms + waits_ms,
        jitter_ms=min(waits_ms, delay_ms),
        loss=error ** (retransmissions + 1),
    )
