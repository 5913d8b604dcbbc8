"""All sensors of whatever board this is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from device_agent.sensors import jetson, raspberry_pi
from device_agent.sensors.reading import PowerRail, Temperature, Throttling, read_text
from device_agent.sensors.temperatures import read_temperatures


@dataclass(frozen=True, slots=True)
class BoardReading:
    """One reading of everything there is."""

    temperatures: tuple[Temperature, ...]
    rails: tuple[PowerRail, ...]
    power_watts: float | None
    """What the whole board takes; None where no sensor tells."""
    throttling: Throttling | None
    gpu_percent: float | None


class BoardSensors:
    """Reads the sensors below a root, which is `/` but in tests."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    @property
    def model(self) -> str | None:
        """The board's name by its device tree; None on machines without one."""
        text = read_text(self._root / "proc/device-tree/model")
        return text.rstrip("\0") if text else None

    def read(self) -> BoardReading:
        """Read everything; what this board does not have is absent."""
        jetson_rails = jetson.read_rails(self._root)
        pi_rails = raspberry_pi.read_rails(self._root)
        return BoardReading(
            temperatures=tuple(read_temperatures(self._root)),
            rails=(*jetson_rails, *pi_rails),
            power_watts=_whole(jetson_rails, pi_rails),
            throttling=raspberry_pi.read_throttling(self._root),
            gpu_percent=jetson.read_gpu_percent(self._root),
        )


def _whole(jetson_rails: list[PowerRail], pi_rails: list[PowerRail]) -> float | None:
    for rail in jetson_rails:
        if rail.name in jetson.INPUT_RAILS:
            return rail.watts
    # The Pi 5's chip measures behind its regulators: their losses are not in the sum.
    return sum(rail.watts for rail in pi_rails) if pi_rails else None
