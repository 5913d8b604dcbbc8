"""Quantities with units, as people write them: `12 Mbit/s`, `20 ms`, `1.5 %`."""

from __future__ import annotations

import math
import re

_QUANTITY = re.compile(
    r"\s*([0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)\s*([^\s0-9].*?)\s*", re.IGNORECASE
)

_RATE_BPS = {
    "bit/s": 1.0,
    "kbit/s": 1e3,
    "Mbit/s": 1e6,
    "Gbit/s": 1e9,
    "B/s": 8.0,
    "kB/s": 8e3,
    "MB/s": 8e6,
}
_BYTES = {"B": 1.0, "kB": 1e3, "KiB": 1024.0, "MB": 1e6, "MiB": 1024.0**2}
_TIME_MS = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3, "min": 60e3}
_FRACTION = {"%": 1e-2, "ppm": 1e-6}
_FREQUENCY_MHZ = {"MHz": 1.0, "GHz": 1e3}
_POWER_DBM = {"dBm": 1.0}
_SPEED_M_PER_S = {"m/s": 1.0, "km/h": 1 / 3.6}


def _parse(text: str, units: dict[str, float], example: str) -> float:
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a number with a unit; write for example {example!r}")
    number, unit = match.groups()
    if unit not in units:
        raise ValueError(
            f"{text!r} has the unit {unit!r}; the units here are {', '.join(units)} "
            f"(for example {example!r})"
        )
    value = float(number) * units[unit]
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is not finite")
    return value


def parse_rate_bps(text: str) -> int:
    """Read a data rate as bit/s; ValueError where it is not one or is zero."""
    value = round(_parse(text, _RATE_BPS, "12 Mbit/s"))
    if value <= 0:
        raise ValueError(f"{text!r} is not above zero; to cut a link use loss 100 %")
    return value


def parse_time_ms(text: str) -> float:
    """Read a duration as milliseconds; ValueError where it is not one."""
    return _parse(text, _TIME_MS, "20 ms")


def parse_bytes(text: str) -> int:
    """Read a size as bytes; ValueError where it is not one or is no whole number of bytes."""
    value = _parse(text, _BYTES, "64 kB")
    if value != round(value):
        raise ValueError(f"{text!r} is not a whole number of bytes")
    return round(value)


def parse_fraction(text: str) -> float:
    """Read a share as a number from 0 to 1; ValueError where it is not one."""
    value = _parse(text, _FRACTION, "1.5 %")
    if value > 1:
        raise ValueError(f"{text!r} is more than 100 %")
    return value


def parse_frequency_mhz(text: str) -> int:
    """Read a radio channel's frequency as MHz; ValueError where it is no whole number of them."""
    value = _parse(text, _FREQUENCY_MHZ, "2437 MHz")
    if not math.isclose(value, round(value)):
        raise ValueError(f"{text!r} is not a whole number of MHz")
    return round(value)


def parse_speed_m_per_s(text: str) -> float:
    """Read a speed as m/s; ValueError where it is not one or is zero."""
    value = _parse(text, _SPEED_M_PER_S, "20 m/s")
    if value <= 0:
        raise ValueError(f"{text!r} is not above zero; what does not move has a position")
    return value


def parse_dbm(text: str) -> float:
    """Read a power as dBm; ValueError where it is not one."""
    sign = -1 if text.lstrip().startswith("-") else 1
    return sign * _parse(text.lstrip().removeprefix("-"), _POWER_DBM, "5 dBm")


def format_rate(rate_bps: float | None) -> str:
    """Write a data rate for people."""
    if rate_bps is None:
        return "unlimited"
    for unit in ("Gbit/s", "Mbit/s", "kbit/s"):
        if rate_bps >= _RATE_BPS[unit]:
            return f"{rate_bps / _RATE_BPS[unit]:.4g} {unit}"
    return f"{rate_bps:.4g} bit/s"
