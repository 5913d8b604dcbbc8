"""From SNR to rate: the tables of 3GPP and IEEE 802.11, and the chance that a packet fails."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

CQI_TABLE_2 = (
    0.1523, 0.3770, 0.8770, 1.4766, 1.9141, 2.4063, 2.7305, 3.3223, 3.9023, 4.5234, 5.1152, 5.5547,
    6.2266, 6.9141, 7.4063,
)  # fmt: skip
"""bit/s/Hz of CQI 1 to 15: 3GPP TS 38.214, table 5.2.2.1-3 (up to 256-QAM)."""

WIFI_20_MHZ = (
    (-82.0, 6.5), (-79.0, 13.0), (-77.0, 19.5), (-74.0, 26.0), (-70.0, 39.0), (-66.0, 52.0),
    (-65.0, 58.5), (-64.0, 65.0), (-59.0, 78.0),
)  # fmt: skip
"""Minimum sensitivity (dBm) and rate (Mbit/s) of MCS 0 to 8: IEEE 802.11-2020, tables 21-25 and
21-30 (20 MHz, one stream, long guard interval)."""

_TARGET_ERROR = 0.1
"""A CQI promises at most this share of failed blocks (TS 38.214, 5.2.2.1)."""
_STEEPNESS_PER_DB = 1.5


@dataclass(frozen=True, slots=True)
class Rate:
    """What a station can do at an SNR; a rate of 0 is out of range."""

    index: int
    rate_bps: float
    error: float
    """Share of transmissions that fail; radios send them again, which costs rate and delay."""


class RateTable(Protocol):
    """Maps SNR to the rate that a radio would choose."""

    def at(self, snr_db: float) -> Rate: ...


def _error(margin_db: float) -> float:
    """A waterfall through the target where the margin is none."""
    odds = _TARGET_ERROR / (1 - _TARGET_ERROR) * math.exp(-_STEEPNESS_PER_DB * margin_db)
    return odds / (1 + odds)


@dataclass(frozen=True, slots=True)
class Cellular:
    """LTE or 5G NR by CQI: the highest whose efficiency a truncated Shannon bound allows.

    efficiency <= log2(1 + SNR / gap), over `bandwidth_hz` of which `data_share` carries data.
    """

    bandwidth_hz: float = 20e6
    gap_db: float = 3.0
    data_share: float = 0.86

    def threshold_db(self, index: int) -> float:
        """The SNR that CQI `index` (from 1) needs."""
        return self.gap_db + 10 * math.log10(2 ** CQI_TABLE_2[index - 1] - 1)

    def at(self, snr_db: float) -> Rate:
        index = sum(self.threshold_db(i) <= snr_db for i in range(1, len(CQI_TABLE_2) + 1))
        if index == 0:
            return Rate(0, 0.0, 1.0)
        rate_bps = CQI_TABLE_2[index - 1] * self.bandwidth_hz * self.data_share
        return Rate(index, rate_bps, _error(snr_db - self.threshold_db(index)))


@dataclass(frozen=True, slots=True)
class WiFi:
    """802.11 by MCS: the highest whose minimum sensitivity the received power reaches."""

    noise_dbm: float = -94.0
    """What SNR is counted from: 20 MHz with a noise figure of 7 dB."""
    frame_share: float = 0.65
    """Of the airtime that frames get: the rest is preambles, acknowledgements and waiting."""

    def at(self, snr_db: float) -> Rate:
        power_dbm = snr_db + self.noise_dbm
        index = sum(sensitivity <= power_dbm for sensitivity, _ in WIFI_20_MHZ) - 1
        if index < 0:
            return Rate(-1, 0.0, 1.0)
        sensitivity, rate_mbps = WIFI_20_MHZ[index]
        return Rate(index, rate_mbps * 1e6 * self.frame_share, _error(power_dbm - sensitivity))
