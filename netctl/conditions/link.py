"""What a link is asked to be, per direction, in SI units."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from netctl.conditions.jitter import DelayTable, Distribution, moments
from netctl.conditions.loss import LossModel

FRAME_HEADER_BYTES = 14
"""An Ethernet header: rates count it, on every backend, because the kernel's qdiscs do."""
MTU_BYTES = 1500
_UNLIMITED_LIMIT_PACKETS = 100_000

QueueDiscipline = Literal["drop-tail", "codel"]


@dataclass(frozen=True, slots=True)
class Slots:
    """Packets leave in batches, as a shared medium lets them: at most so many of them in a slot."""

    shortest_ms: float
    longest_ms: float
    packets: int = 0
    """In one slot; 0 is any number."""
    payload_bytes: int = 0
    """In one slot; 0 is any number."""

    def __post_init__(self) -> None:
        if not 0 < self.shortest_ms <= self.longest_ms:
            raise ValueError(
                f"slots need 0 < shortest_ms <= longest_ms, not {self.shortest_ms} and "
                f"{self.longest_ms}"
            )
        if self.packets < 0 or self.payload_bytes < 0:
            raise ValueError("a slot's packets and payload_bytes must be zero or more")


@dataclass(frozen=True, slots=True)
class DirectionConditions:
    """One direction of a link.

    A packet is duplicated, lost or corrupted first; then it is delayed; then it queues for the rate.
    Packets stay in order, whatever the jitter, unless `reorder` or `in_order=False` ask otherwise.
    """

    rate_bps: int | None = None
    """Counts Ethernet frames; None is unlimited."""
    delay_ms: float = 0.0
    """The mean."""
    jitter_ms: float = 0.0
    """Uniform: the most that a delay differs from the mean. Other distributions: the standard deviation."""
    loss: float = 0.0
    """The share of packets lost, each independently unless `loss_model` says otherwise."""
    queue_ms: float = 200.0
    """How long a full queue takes to drain at the rate; unless given in bytes or packets."""
    distribution: Distribution | DelayTable = "uniform"
    jitter_correlation: float = 0.0
    """Of each packet's delay with the one before; the distribution stays what it is."""
    in_order: bool = True
    loss_model: LossModel | None = None
    duplicate: float = 0.0
    reorder: float = 0.0
    """The share of packets that overtake the others: they are not delayed at all."""
    corrupt: float = 0.0
    """The share of packets with one bit flipped."""
    slots: Slots | None = None
    queue_bytes: int | None = None
    queue_packets: int | None = None
    queue_discipline: QueueDiscipline = "drop-tail"
    mtu_bytes: int = MTU_BYTES
    up: bool = True
    """Down is a dead zone: nothing comes through."""

    def __post_init__(self) -> None:
        if self.rate_bps is not None and self.rate_bps <= 0:
            raise ValueError(f"rate must be above zero, not {self.rate_bps} bit/s")
        for name in ("delay_ms", "jitter_ms", "queue_ms"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be zero or more, not {value}")
        if self.loss_model is not None:
            if self.loss not in (0.0, self.loss_model.mean):
                raise ValueError(
                    f"loss is {self.loss}, but its model's mean is {self.loss_model.mean:.6g}; "
                    "leave loss out where a model is given"
                )
            object.__setattr__(self, "loss", self.loss_model.mean)
        for name in ("loss", "duplicate", "reorder", "corrupt"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be from 0 to 1, not {value}")
        if not 0 <= self.jitter_correlation < 1:
            raise ValueError(
                f"jitter_correlation must be from 0 to below 1, not {self.jitter_correlation}"
            )
        if self.distribution == "uniform" and self.jitter_ms > self.delay_ms:
            raise ValueError(
                f"jitter ({self.jitter_ms} ms) is more than the delay ({self.delay_ms} ms); "
                "a packet cannot arrive before it was sent"
            )
        if self.queue_bytes is not None and self.queue_packets is not None:
            raise ValueError("a queue's length is in bytes or in packets, not both")
        for name in ("queue_bytes", "queue_packets"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if not self.in_order and self.rate_bps is not None:
            raise ValueError(
                "jitter cannot reorder packets that share a rate: they leave one after another; "
                "use reorder, or no rate"
            )
        if not 68 <= self.mtu_bytes <= 65535:
            raise ValueError(f"mtu_bytes must be from 68 to 65535, not {self.mtu_bytes}")

    @property
    def queue_limit_bytes(self) -> int | None:
        """What the queue before the rate can hold, in bytes of frames; None where packets count."""
        if self.rate_bps is None or self.queue_packets is not None:
            return None
        if self.queue_bytes is not None:
            return self.queue_bytes
        frame = self.mtu_bytes + FRAME_HEADER_BYTES
        return max(2 * frame, math.ceil(self.rate_bps * self.queue_ms / 8e3))

    @property
    def mean_delay_ms(self) -> float:
        """What delays average to."""
        return self.delay_ms + self.jitter_ms * moments(self.distribution)[0]

    @property
    def deviation_ms(self) -> float:
        """The standard deviation of delays."""
        return self.jitter_ms * moments(self.distribution)[1]

    @property
    def delay_is_symmetric(self) -> bool:
        """Whether delays lie alike on both sides of their mean, which then is their median."""
        return self.distribution in ("uniform", "normal")

    @property
    def undelivered(self) -> float:
        """The share of packets of which nothing arrives, or something with a flipped bit."""
        return 1 - (1 - self.loss) * (1 - self.corrupt) if self.up else 1.0

    @property
    def mean_burst_packets(self) -> float:
        """How many packets are lost one after another, on average."""
        if self.loss_model is not None:
            return self.loss_model.mean_burst_packets
        return 1 / (1 - self.loss) if self.loss < 1 else math.inf

    @property
    def longest_delay_ms(self) -> float:
        """What hardly any packet is delayed beyond, queueing left out."""
        spread = 1.0 if self.distribution == "uniform" else 4.0
        return self.delay_ms + spread * self.jitter_ms

    @property
    def limit_packets(self) -> int:
        """The packets a backend must be able to hold: those under way and those queueing.

        netem counts both against one limit; its default of 1000 drops what a fast, long link holds.
        """
        if self.rate_bps is None:
            return _UNLIMITED_LIMIT_PACKETS
        frame_bits = (self.mtu_bytes + FRAME_HEADER_BYTES) * 8
        under_way = self.rate_bps * self.longest_delay_ms / 1e3 / frame_bits
        if self.queue_packets is not None:
            queued: float = self.queue_packets
        else:
            queued = (self.queue_limit_bytes or 0) * 8 / frame_bits
        return max(4, math.ceil(under_way + queued))

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
