"""Temperatures from the kernel's hwmon devices and thermal zones (every Linux board)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from device_agent.sensors.reading import Temperature, read_number, read_text


def read_temperatures(root: Path) -> list[Temperature]:
    """Read all sensors below `root` (`/`), each name once; hwmon's readings come first."""
    found: dict[str, Temperature] = {}
    for reading in (*_hwmon(root / "sys/class/hwmon"), *_zones(root / "sys/class/thermal")):
        found.setdefault(reading.sensor, reading)
    return list(found.values())


def _hwmon(folder: Path) -> Iterator[Temperature]:
    for path in sorted(folder.glob("hwmon*/temp*_input")):
        millidegrees = read_number(path)
        if millidegrees is None:
            continue
        stem = path.name.removesuffix("_input")
        label = read_text(path.with_name(f"{stem}_label"))
        chip = read_text(path.with_name("name")) or path.parent.name
        yield Temperature(label or chip, millidegrees / 1e3)


def _zones(folder: Path) -> Iterator[Temperature]:
    for path in sorted(folder.glob("thermal_zone*/temp")):
        millidegrees = read_number(path)
        if millidegrees is not None:
            zone = read_text(path.with_name("type")) or path.parent.name
            yield Temperature(zone, millidegrees / 1e3)
