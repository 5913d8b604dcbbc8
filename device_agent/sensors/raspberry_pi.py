"""Throttling and power of Raspberry Pi boards, by `vcgencmd` and the firmware's sysfs file."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from device_agent.sensors.reading import PowerRail, Throttling, read_text

_TIMEOUT_S = 2.0
_THROTTLED_FILES = (
    "sys/devices/platform/soc/soc:firmware/get_throttled",
    "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled",
)
_ADC = re.compile(
    r"^\s*(\w+)_([AV])\s*(?:(?:current|volt(?:age)?)\(\d+\))?=([0-9.]+)[AV]\s*$", re.M
)


def _vcgencmd(root: Path, *arguments: str) -> str | None:
    program = root / "usr/bin/vcgencmd"
    if not program.exists():
        return None
    try:
        done = subprocess.run(
            [program, *arguments], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def read_throttling(root: Path) -> Throttling | None:
    """Read the flags of `get_throttled` (Raspberry Pi documentation, "vcgencmd").

    From sysfs where the kernel offers it: it needs no process.
    """
    for path in _THROTTLED_FILES:
        if (text := read_text(root / path)) is not None:
            return _flags(text)
    answer = _vcgencmd(root, "get_throttled")
    return None if answer is None else _flags(answer.partition("=")[2])


def _flags(text: str) -> Throttling | None:
    try:
        bits = int(text, 16)
    except ValueError:
        return None
    return Throttling(*(bool(bits >> bit & 1) for bit in (0, 1, 2, 3, 16, 17, 18, 19)))


def read_rails(root: Path) -> list[PowerRail]:
    """Read the rails of the power management chip (Raspberry Pi 5); none on older boards.

    A rail is told where both its voltage and its current are.
    """
    answer = _vcgencmd(root, "pmic_read_adc")
    if answer is None:
        return []
    values: dict[str, dict[str, float]] = {}
    for name, unit, number in _ADC.findall(answer):
        values.setdefault(name, {})[unit] = float(number)
    return [
        PowerRail(name, both["V"], both["A"])
        for name, both in values.items()
        if both.keys() == {"V", "A"}
    ]
