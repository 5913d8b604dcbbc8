"""What a link is asked to be, per direction, in SI units."""

from __future__ import annotations

import math
from dataclasses import dataclass

FRAME_HEADER_BYTES = 14
"""An Ethernet header: rates count it, on every backend, because the kernel's qdiscs do."""
MTU_BYTES = 1500
_FULL_FRAME_BITS = (MTU_BYTES + FRAME_HEADER_BYTES) * 8
_UNLIMITED_RATE_LIMIT_PACKETS = 100_000


@dataclass(frozen=True, slots=True)
class DirectionConditions:
    """One direction of a link. Packets stay in order, whatever the jitter.

    `delay_ms` is added to every packet, moved by up to ±`jitter_ms` (uniform). `loss` is the
    chance that a packet is lost, each independently. `rate_bps` counts Ethernet frames;
    None is unlimited. `queue_ms` is how long a full queue takes to drain at the rate.
    """

    rate_bps: int | None = None
    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    loss: float = 0.0
    queue_ms: float = 200.0

    def __post_init__(self) -> None:
        if self.rate_bps is not None and self.rate_bps <= 0:
            raise ValueError(f"rate must be above zero, not {self.rate_bps} bit/s")
        for name in ("delay_ms", "jitter_ms", "queue_ms"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be zero or more, not {value}")
        if self.jitter_ms > self.delay_ms:
            raise ValueError(
                f"jitter ({self.jitter_ms} ms) is more than the delay ({self.delay_ms} ms); "
                "a packet cannot arrive before it was sent"
            )
        if not 0 <= self.loss <= 1:
            raise ValueError(f"loss must be from 0 to 1, not {self.loss}")

    @property
    def limit_packets(self) -> int:
        """The packets a backend must be able to hold: those under way and those queueing."""
        if self.rate_bps is None:
            return _UNLIMITED_RATE_LIMIT_PACKETS
        held_ms = self.delay_ms + self.jitter_ms + self.queue_ms
        return max(4, math.ceil(self.rate_bps * held_ms / 1e3 / _FULL_FRAME_BITS))

    def transmission_ms(self, packet_bytes: int) -> float:
        """How long the rate takes to send one IP packet."""
        if self.rate_bps is None:
            return 0.0
        return (packet_bytes + FRAME_HEADER_BYTES) * 8e3 / self.rate_bps

    def transfer_ms(self, payload_bytes: int) -> float:
        """Predict the time to send a payload over warm TCP without loss: delay + bytes ÷ rate."""
        segments = max(1, math.ceil(payload_bytes / 1448))
        frame_bytes = payload_bytes + segments * (52 + FRAME_HEADER_BYTES)
        rate_ms = 0.0 if self.rate_bps is None else frame_bytes * 8e3 / self.rate_bps
        return self.delay_ms + rate_ms


@dataclass(frozen=True, slots=True)
class LinkConditions:
    """Both directions of a link; up is from the device to the cloud."""

    uplink: DirectionConditions
    downlink: DirectionConditions
