"""Power and GPU load of NVIDIA Jetson boards.

Rails come from INA3221 monitors: as hwmon devices (JetPack 5 and later, the kernel's own driver:
Documentation/hwmon/ina3221.rst) or as iio devices with `rail_name_N` (NVIDIA's driver of JetPack 4).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from device_agent.sensors.reading import PowerRail, read_number, read_text

_CHANNELS = (1, 2, 3)
_GPU_LOAD = ("sys/devices/gpu.0/load", "sys/devices/platform/gpu.0/load")
INPUT_RAILS = ("VDD_IN", "POM_5V_IN", "VIN_SYS_5V0", "SYS_VIN_5V", "VDD_SYS_5V0")
"""Rails that carry all that a board takes, by board."""


def read_rails(root: Path) -> list[PowerRail]:
    """Read the rails of every INA3221 below `root`."""
    return [*_hwmon(root), *_iio(root)]


def _hwmon(root: Path) -> Iterator[PowerRail]:
    for device in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        if read_text(device / "name") != "ina3221":
            continue
        for channel in _CHANNELS:
            label = read_text(device / f"in{channel}_label")
            millivolts = read_number(device / f"in{channel}_input")
            milliamperes = read_number(device / f"curr{channel}_input")
            # A channel that is not wired has no label or no current.
            if label and label != "NC" and millivolts is not None and milliamperes is not None:
                yield PowerRail(label, millivolts / 1e3, milliamperes / 1e3)


def _iio(root: Path) -> Iterator[PowerRail]:
    for device in sorted((root / "sys/bus/i2c/drivers/ina3221x").glob("*/iio:device*")):
        for channel in range(len(_CHANNELS)):
            name = read_text(device / f"rail_name_{channel}")
            millivolts = read_number(device / f"in_voltage{channel}_input")
            milliamperes = read_number(device / f"in_current{channel}_input")
            if name and name != "NC" and millivolts is not None and milliamperes is not None:
                yield PowerRail(name, millivolts / 1e3, milliamperes / 1e3)


def read_gpu_percent(root: Path) -> float | None:
    """The GPU's load, 0 to 100; the kernel gives tenths of a percent."""
    for path in _GPU_LOAD:
        permille = read_number(root / path)
        if permille is not None:
            return permille / 10
    return None
