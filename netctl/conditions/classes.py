"""Traffic sorted into classes, each with conditions of its own, that share one access link.

Each class has a queue of its own, as a base station or an access point keeps one for each peer. Where
the shared rate is not enough for all, classes get parts of it by their weights, and what one leaves
unused the others may borrow, each up to its own rate.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field, fields
from typing import Literal

from netctl.conditions.link import DirectionConditions

Protocol = Literal["tcp", "udp", "icmp"]
MOST_CLASSES = 200


@dataclass(frozen=True, slots=True)
class Match:
    """Packets for which all that is given holds; at least one thing must be."""

    source: str | None = None
    """An address or a prefix, IPv4 or IPv6: `10.0.0.0/24`."""
    destination: str | None = None
    protocol: Protocol | None = None
    source_port: int | None = None
    destination_port: int | None = None
    mark: int | None = None
    """Of the socket (SO_MARK) or by the firewall."""

    def __post_init__(self) -> None:
        versions = set()
        for name in ("source", "destination"):
            text = getattr(self, name)
            if text is not None:
                network = ipaddress.ip_network(text)
                versions.add(network.version)
                object.__setattr__(self, name, str(network))
        if len(versions) > 1:
            raise ValueError("source and destination are of different versions of IP")
        for name in ("source_port", "destination_port"):
            port = getattr(self, name)
            if port is None:
                continue
            if self.protocol not in ("tcp", "udp"):
                raise ValueError(f"{name} needs protocol: tcp or udp")
            if not 0 < port < 65536:
                raise ValueError(f"{name} is from 1 to 65535, not {port}")
        if self.mark is not None and not 0 < self.mark < 1 << 32:
            raise ValueError(f"a mark is from 1 to {2**32 - 1}, not {self.mark}")
        if all(getattr(self, one.name) is None for one in fields(self)):
            raise ValueError(
                "a match needs at least one of source, destination, protocol, ports and mark; what "
                "no class matches is `others`"
            )


@dataclass(frozen=True, slots=True)
class TrafficClass:
    """What any of its matches takes; the first class that matches has the packet."""

    name: str
    match: tuple[Match, ...]
    conditions: DirectionConditions
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.match:
            raise ValueError(f"the class {self.name!r} matches nothing")
        if not 0.01 <= self.weight <= 100:
            raise ValueError(f"a weight is from 0.01 to 100, not {self.weight}")


@dataclass(frozen=True, slots=True)
class SharedLink:
    """Classes, what no class matches, and the rate that all of them share."""

    classes: tuple[TrafficClass, ...]
    others: DirectionConditions = field(default_factory=DirectionConditions)
    """Of weight 1."""
    rate_bps: int | None = None
    """None: nothing is shared, each has its own rate."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.classes) <= MOST_CLASSES:
            raise ValueError(f"there are from 1 to {MOST_CLASSES} classes, not {len(self.classes)}")
        names = [one.name for one in self.classes]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"there are two classes named {twice[0]!r}")
        if self.rate_bps is not None and self.rate_bps <= 0:
            raise ValueError(f"rate must be above zero, not {self.rate_bps} bit/s")
        for name, conditions in (
            *((c.name, c.conditions) for c in self.classes),
            ("others", self.others),
        ):
            if not conditions.in_order:
                raise ValueError(f"{name}: in a class packets keep their order")

    def guaranteed_bps(self, weight: float) -> float | None:
        """What a class of that weight gets while all want more; None where nothing is shared."""
        if self.rate_bps is None:
            return None
        return self.rate_bps * weight / (1 + sum(one.weight for one in self.classes))
