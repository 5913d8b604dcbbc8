"""What both ends of a stream between device and cloud share: lanes, parts and limits."""

from airloom.stream.lanes import Lanes
from airloom.stream.limits import StreamLimits
from airloom.stream.reassembly import Reassembly, StreamViolationError

__all__ = ["Lanes", "Reassembly", "StreamLimits", "StreamViolationError"]

PROTOCOL = "airloom.v1"

MISSED_HEARTBEATS = 3
"""So many heartbeats' time of silence, and either side gives the stream up."""
