"""What boards measure of themselves, one reader for each family of sensors."""

from device_agent.sensors.board import BoardReading, BoardSensors
from device_agent.sensors.reading import PowerRail, Temperature, Throttling

__all__ = ["BoardReading", "BoardSensors", "PowerRail", "Temperature", "Throttling"]
