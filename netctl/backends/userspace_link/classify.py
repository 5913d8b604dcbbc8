"""Which class an IP packet belongs to: the same packets as the kernel's filters take."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from airloom.errors import UnsupportedConditionError
from netctl.conditions.classes import Match, SharedLink

_NUMBERS = {4: {"tcp": 6, "udp": 17, "icmp": 1}, 6: {"tcp": 6, "udp": 17, "icmp": 58}}


@dataclass(frozen=True, slots=True)
class Flow:
    """What a packet's headers say; ports are None where they are not to be had."""

    version: int
    source: int
    destination: int
    protocol: int
    source_port: int | None
    destination_port: int | None


def flow_of(packet: bytes) -> Flow | None:
    """Read an IP packet's headers; None where it is none.

    Ports are read where the kernel's filters read them: without IP options, extension headers and
    fragments but the first.
    """
    version = packet[0] >> 4 if packet else 0
    ports: tuple[int, int] | tuple[None, None] = (None, None)
    if version == 4 and len(packet) >= 20:
        plain = packet[0] & 0xF == 5 and not (packet[6] & 0x1F or packet[7])
        if plain and len(packet) >= 24:
            ports = _number(packet[20:22]), _number(packet[22:24])
        return Flow(4, _number(packet[12:16]), _number(packet[16:20]), packet[9], *ports)
    if version == 6 and len(packet) >= 40:
        if len(packet) >= 44:
            ports = _number(packet[40:42]), _number(packet[42:44])
        return Flow(6, _number(packet[8:24]), _number(packet[24:40]), packet[6], *ports)
    return None


def _number(data: bytes) -> int:
    return int.from_bytes(data, "big")


Predicate = Callable[[Flow], bool]


def predicate(match: Match) -> Predicate:
    """A match as a function.

    Raises:
        UnsupportedConditionError: it asks for a mark.
    """
    if match.mark is not None:
        raise UnsupportedConditionError(
            "a mark is the kernel's own note on a packet, which a userspace link does not see; "
            "match by address and port, or shape the interface with netem"
        )
    tests: list[Predicate] = []
    for name, text in (("source", match.source), ("destination", match.destination)):
        if text is not None:
            tests.append(_within(name, ipaddress.ip_network(text)))
    if match.protocol is not None:
        numbers = {version: names[match.protocol] for version, names in _NUMBERS.items()}
        tests.append(lambda flow: flow.protocol == numbers[flow.version])
    for name in ("source_port", "destination_port"):
        port = getattr(match, name)
        if port is not None:
            tests.append(_has(name, port))
    return lambda flow: all(test(flow) for test in tests)


def _within(name: str, network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> Predicate:
    mask, wanted, version = int(network.netmask), int(network.network_address), network.version
    return lambda flow: flow.version == version and getattr(flow, name) & mask == wanted


def _has(name: str, port: int) -> Predicate:
    return lambda flow: bool(getattr(flow, name) == port)


def classifier(link: SharedLink, header_bytes: int) -> Callable[[bytes], int]:
    """The index of a packet's class; what no class matches has the index after the last.

    `header_bytes` is the length of the link-layer header before the IP packet.

    Raises:
        UnsupportedConditionError: a class asks for a mark.
    """
    tests: list[Sequence[Predicate]] = [
        [predicate(match) for match in one.match] for one in link.classes
    ]

    def classify(packet: bytes) -> int:
        flow = flow_of(packet[header_bytes:])
        if flow is not None:
            for index, matches in enumerate(tests):
                if any(match(flow) for match in matches):
                    return index
        return len(tests)

    return classify
