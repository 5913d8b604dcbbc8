"""System calls, as the kernel shows what they did."""

import os
import struct
from pathlib import Path

from netctl.linux import processors_awake

LATENCY = Path("/dev/cpu_dma_latency")


def tolerated_us() -> int:
    with LATENCY.open("rb", buffering=0) as shown:
        (value,) = struct.unpack("=i", shown.read(4))
    return int(value)


def test_processors_are_kept_awake_for_as_long_as_asked_where_that_is_allowed() -> None:
    allowed = os.access(LATENCY, os.R_OK | os.W_OK)
    before = tolerated_us() if allowed else None
    with processors_awake() as awake:
        assert awake is allowed
        if allowed:
            assert tolerated_us() == 0
    if allowed:
        assert tolerated_us() == before
