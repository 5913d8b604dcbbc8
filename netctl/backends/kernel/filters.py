"""Which packets go where: u32 filters as data, and as the kernel shows them.

Ports are read where they are without IP options, extension headers and fragments: what has those
has no port here.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from netctl.backends.kernel.netlink import TrafficControl, attribute, attributes, nested
from netctl.conditions.classes import Match

_U32_CLASSID, _U32_SELECTOR, _U32_ACTION, _U32_MARK = 1, 5, 7, 10
_ACTION_KIND, _ACTION_OPTIONS, _MIRRED_PARAMETERS = 1, 2, 2
_STOLEN, _REDIRECT = 4, 1
_TERMINAL = 1
_SELECTOR = struct.Struct("=BBBxHHhhI")
"""struct tc_u32_sel: flags, offshift, nkeys, offmask, off, offoff, hoff, hmask; then the keys."""
_NUMBERS = {"tcp": 6, "udp": 17, "icmp": 1}
_EXEMPTED: tuple[Literal["tcp"], Literal["udp"]] = ("tcp", "udp")
_ICMPV6 = 58
_NEIGHBOUR_DISCOVERY = range(133, 138)
"""ICMPv6 types of RFC 4861: router and neighbour solicitations and advertisements, redirects."""
_IPV4, _IPV6, _ARP, _ALL = 0x0800, 0x86DD, 0x0806, 0x0003
_SOURCE_MASK, _DESTINATION_MASK = 0xFFFF0000, 0x0000FFFF
_PLAIN_IPV4 = ((0x0F000000, 0x05000000, 0), (0x00001FFF, 0, 4))
"""A header without options, of a packet that is whole or the first fragment."""

Key = tuple[int, int, int]
"""The bits of a mask have a value, in the four bytes at an offset of the IP header."""


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
        if protocol not in ("tcp", "udp") or not slash or not port.isdecimal():
            raise ValueError(f"{text!r} is not tcp/PORT or udp/PORT (for example tcp/22)")
        return cls(protocol, int(port))  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Filter:
    """Packets that all keys hold for, and the mark where one is given, go to a class or band."""

    ethernet_protocol: int
    keys: tuple[Key, ...]
    target: int
    mark: int | None = None

    def encode(self, index: int, parent: int, priority: int) -> TrafficControl:
        """The message that adds it to a qdisc; lower priorities are asked first."""
        selector = _SELECTOR.pack(_TERMINAL, 0, len(self.keys), 0, 0, 0, 0, 0)
        for mask, value, offset in self.keys:
            selector += struct.pack("!II", mask, value) + struct.pack("=ii", offset, 0)
        options = attribute(_U32_CLASSID, struct.pack("=I", self.target))
        options += attribute(_U32_SELECTOR, selector)
        if self.mark is not None:
            options += attribute(_U32_MARK, struct.pack("=3I", self.mark, 0xFFFFFFFF, 0))
        protocol = struct.unpack("=H", struct.pack("!H", self.ethernet_protocol))[0]
        return TrafficControl(index, 0, parent, priority << 16 | protocol, "u32", options)

    @classmethod
    def decode(cls, shown: TrafficControl) -> Filter | None:
        """Read what the kernel shows; None for the hash tables that it shows as well."""
        found = dict(attributes(shown.options))
        selector = found.get(_U32_SELECTOR)
        if selector is None or _U32_CLASSID not in found:
            return None
        keys = []
        for number in range(selector[2]):
            at = _SELECTOR.size + 16 * number
            mask, value = struct.unpack_from("!II", selector, at)
            keys.append((mask, value, struct.unpack_from("=i", selector, at + 8)[0]))
        mark = None
        if _U32_MARK in found:
            (mark,) = struct.unpack_from("=I", found[_U32_MARK])
        (protocol,) = struct.unpack("!H", struct.pack("=H", shown.info & 0xFFFF))
        (target,) = struct.unpack("=I", found[_U32_CLASSID])
        return cls(protocol, tuple(keys), target, mark)


def redirection(interface: int) -> bytes:
    """Options of a u32 filter that sends every packet out by another interface."""
    parameters = struct.pack("=2I3i", 0, 0, _STOLEN, 0, 0) + struct.pack(
        "=iI", _REDIRECT, interface
    )
    action = nested(
        1,
        attribute(_ACTION_KIND, b"mirred\0"),
        nested(_ACTION_OPTIONS, attribute(_MIRRED_PARAMETERS, parameters)),
    )
    every = struct.pack("!II", 0, 0) + struct.pack("=ii", 0, 0)
    selector = _SELECTOR.pack(_TERMINAL, 0, 1, 0, 0, 0, 0, 0) + every
    return attribute(_U32_SELECTOR, selector) + nested(_U32_ACTION, action)


def shown_filters(messages: Sequence[TrafficControl]) -> tuple[Filter, ...]:
    """The filters among what the kernel shows, in the order of their priorities."""
    ordered = sorted(messages, key=lambda message: message.info >> 16)
    return tuple(one for message in ordered if (one := Filter.decode(message)) is not None)


def two_bands() -> bytes:
    """Options of a prio qdisc whose every packet goes to the second band, unless filtered."""
    return struct.pack("=i16B", 2, *[1] * 16)


def exempting_filters(exempt: Sequence[Exemption], band: int) -> Iterator[Filter]:
    """What sends exempt packets to a band; ARP and IPv6's go there too, or nothing would resolve."""
    yield from _resolving(band)
    for one in exempt:
        yield from _exempting(one, band)


def _resolving(band: int) -> Iterator[Filter]:
    yield Filter(_ARP, ((0, 0, 0),), band)
    for kind in _NEIGHBOUR_DISCOVERY:
        keys = ((0x0000FF00, _ICMPV6 << 8, 4), (0xFF000000, kind << 24, 40))
        yield Filter(_IPV6, keys, band)


def _exempting(one: Exemption, band: int) -> Iterator[Filter]:
    number = _NUMBERS[one.protocol]
    for mask, value in ((_SOURCE_MASK, one.port << 16), (_DESTINATION_MASK, one.port)):
        yield Filter(_IPV4, ((0x00FF0000, number << 16, 8), (mask, value, 20)), band)
        yield Filter(_IPV6, ((0x0000FF00, number << 8, 4), (mask, value, 40)), band)


def shown_exemptions(filters: Sequence[Filter]) -> tuple[Exemption, ...]:
    """What the kernel exempts: only where all filters of a port are there, IPv4 and IPv6, both ends."""
    there = {replace(one, target=0) for one in filters}
    if not there.issuperset(_resolving(0)):
        return ()
    # A foreign filter's value may have bits that its mask leaves out.
    ports = {key[1] & key[0] for one in filters for key in one.keys if key[0] == _DESTINATION_MASK}
    candidates = (
        Exemption(protocol, port) for protocol in _EXEMPTED for port in sorted(ports) if port
    )
    return tuple(one for one in candidates if there.issuperset(_exempting(one, 0)))


def matching_filters(match: Match, target: int) -> Iterator[Filter]:
    """What sends matching packets to a class: one filter for each version of IP that may match."""
    networks = {
        offset: ipaddress.ip_network(text)
        for offset, text in (("source", match.source), ("destination", match.destination))
        if text is not None
    }
    if not networks and match.protocol is None:
        yield Filter(_ALL, ((0, 0, 0),), target, match.mark)
        return
    versions = {network.version for network in networks.values()} or {4, 6}
    if 4 in versions:
        keys = _address_keys(networks, {"source": 12, "destination": 16})
        if match.protocol is not None:
            keys.append((0x00FF0000, _NUMBERS[match.protocol] << 16, 8))
        ports = _port_keys(match, 20)
        keys += [*_PLAIN_IPV4, *ports] if ports else []
        yield Filter(_IPV4, tuple(keys), target, match.mark)
    if 6 in versions:
        keys = _address_keys(networks, {"source": 8, "destination": 24})
        if match.protocol is not None:
            number = _ICMPV6 if match.protocol == "icmp" else _NUMBERS[match.protocol]
            keys.append((0x0000FF00, number << 8, 4))
        yield Filter(_IPV6, (*keys, *_port_keys(match, 40)), target, match.mark)


def _address_keys(
    networks: dict[str, ipaddress.IPv4Network | ipaddress.IPv6Network], offsets: dict[str, int]
) -> list[Key]:
    keys = []
    for end, network in networks.items():
        address, mask = network.network_address.packed, network.netmask.packed
        for at in range(0, len(address), 4):
            (bits,) = struct.unpack_from("!I", mask, at)
            if bits:
                (value,) = struct.unpack_from("!I", address, at)
                keys.append((bits, value, offsets[end] + at))
    # A prefix of length 0 holds for all: a filter needs a key nevertheless.
    return keys or [(0, 0, 0)]


def _port_keys(match: Match, offset: int) -> list[Key]:
    keys = []
    if match.source_port is not None:
        keys.append((_SOURCE_MASK, match.source_port << 16, offset))
    if match.destination_port is not None:
        keys.append((_DESTINATION_MASK, match.destination_port, offset))
    return keys
