"""What both ends of a stream between device and cloud share: the send queue, parts and limits."""

from airloom.stream.limits import StreamLimits
from airloom.stream.reassembly import Reassembly, StreamViolationError
from airloom.stream.send_queue import SendQueue

__all__ = ["Reassembly", "SendQueue", "StreamLimits", "StreamViolationError"]

PROTOCOL = "airloom.v1"

MISSED_HEARTBEATS = 3
"""So many heartbeats' time of silence, and either side gives the stream up."""
