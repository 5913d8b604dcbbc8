"""Traffic that is never shaped: a prio qdisc's first band, and the u32 filters that lead there."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from netctl.kernel.netlink import TrafficControl, attribute, attributes

_U32_CLASSID, _U32_SELECTOR = 1, 5
_TERMINAL = 1
_PROTOCOLS = {"tcp": 6, "udp": 17}
_IPV4, _IPV6, _ARP = 0x0800, 0x86DD, 0x0806
_SOURCE_MASK, _DESTINATION_MASK = 0xFFFF0000, 0x0000FFFF


@dataclass(frozen=True, slots=True, order=True)
class Exemption:
    """A port, at either end, whose packets pass unshaped."""

    protocol: Literal["tcp", "udp"]
    port: int

    def __post_init__(self) -> None:
        if not 0 < self.port < 65536:
            raise ValueError(f"a port is from 1 to 65535, not {self.port}")

    @classmethod
    def parse(cls, text: str) -> Exemption:
        """Read `tcp/22`; ValueError where it is not one."""
        protocol, slash, port = text.partition("/")
        if protocol not in _PROTOCOLS or not slash or not port.isdecimal():
            raise ValueError(f"{text!r} is not tcp/PORT or udp/PORT (for example tcp/22)")
        return cls(protocol, int(port))  # type: ignore[arg-type]


def two_bands() -> bytes:
    """Options of a prio qdisc whose every packet goes to the second band, unless filtered."""
    return struct.pack("=i16B", 2, *[1] * 16)


def exempting_filters(
    index: int, parent: int, band: int, exempt: Sequence[Exemption]
) -> Iterator[TrafficControl]:
    """The filters that send exempt packets to a band; ARP goes there too, or nothing would resolve.

    Ports are read where they are without IP options or extension headers.
    """
    priority = 1
    yield _filter(index, parent, priority, _ARP, band, [(0, 0, 0)])
    for one in exempt:
        number = _PROTOCOLS[one.protocol]
        for mask, value in (
            (_SOURCE_MASK, one.port << 16),
            (_DESTINATION_MASK, one.port),
        ):
            priority += 1
            keys = [(0x00FF0000, number << 16, 8), (mask, value, 20)]
            yield _filter(index, parent, priority, _IPV4, band, keys)
            priority += 1
            keys = [(0x0000FF00, number << 8, 4), (mask, value, 40)]
            yield _filter(index, parent, priority, _IPV6, band, keys)


def _filter(
    index: int,
    parent: int,
    priority: int,
    ethernet_protocol: int,
    band: int,
    keys: Sequence[tuple[int, int, int]],
) -> TrafficControl:
    # struct tc_u32_sel: flags, offshift, nkeys, offmask, off, offoff, hoff, hmask; then the keys.
    selector = struct.pack("=BBBxHHhhI", _TERMINAL, 0, len(keys), 0, 0, 0, 0, 0)
    for mask, value, offset in keys:
        selector += struct.pack("!II", mask, value) + struct.pack("=ii", offset, 0)
    options = attribute(_U32_CLASSID, struct.pack("=I", band)) + attribute(_U32_SELECTOR, selector)
    info = priority << 16 | struct.unpack("=H", struct.pack("!H", ethernet_protocol))[0]
    return TrafficControl(index, 0, parent, info, "u32", options)


def shown_exemptions(filters: Sequence[TrafficControl]) -> tuple[Exemption, ...]:
    """What the kernel exempts: only where all filters of a port are there, IPv4 and IPv6, both ends."""
    names = {number: name for name, number in _PROTOCOLS.items()}
    seen: dict[Exemption, set[tuple[int, int]]] = {}
    for one in filters:
        selector = dict(attributes(one.options)).get(_U32_SELECTOR)
        if selector is None or selector[2] != 2:
            continue
        head = struct.calcsize("=BBBxHHhhI")
        (_, value, offset), (port_mask, port_value, _) = (
            (*struct.unpack_from("!II", selector, at), *struct.unpack_from("=i", selector, at + 8))
            for at in (head, head + 16)
        )
        number = value >> 16 if offset == 8 else value >> 8
        port = port_value >> 16 if port_mask == _SOURCE_MASK else port_value
        exemption = Exemption(names[number], port)  # type: ignore[arg-type]
        seen.setdefault(exemption, set()).add((offset, port_mask))
    return tuple(sorted(one for one, parts in seen.items() if len(parts) == 4))
