"""Readings, and how a kernel's files are read: what is not there is absent, never zero."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Temperature:
    """Of one sensor."""

    sensor: str
    celsius: float


@dataclass(frozen=True, slots=True)
class PowerRail:
    """One supply of a board."""

    name: str
    volts: float
    amperes: float

    @property
    def watts(self) -> float:
        return self.volts * self.amperes


@dataclass(frozen=True, slots=True)
class Throttling:
    """Why a Raspberry Pi runs slower than it could, now and since it started."""

    under_voltage: bool
    frequency_capped: bool
    throttled: bool
    soft_temperature_limit: bool
    under_voltage_occurred: bool
    frequency_capped_occurred: bool
    throttled_occurred: bool
    soft_temperature_limit_occurred: bool


def read_text(path: Path) -> str | None:
    """A file's text without surrounding space; None where there is nothing to be read.

    Sensors that are switched off are files whose reading fails (EAGAIN, EINVAL).
    """
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def read_number(path: Path) -> float | None:
    """A file's number; None where there is none."""
    text = read_text(path)
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
