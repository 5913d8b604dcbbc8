"""Packets of every kind that a link must carry and not change, crafted with scapy."""

from __future__ import annotations

import random
import socket
import time
from dataclasses import dataclass

from airloom.errors import LinkError
from netctl.conditions.link import LinkConditions
from netctl.linux import network_namespace
from netctl.measure.certificate import Verdict, plainly
from netctl.measure.prober import End

_ETH_P_IP = 0x0800
_RECEIVE_BYTES = 1 << 16
_SILENCE_S = 1.0
"""After what the link may delay: then no more will come."""
_SO_RCVBUFFORCE, _BUFFER_BYTES = 33, 1 << 23


@dataclass(frozen=True, slots=True)
class Crossing:
    """What became of crafted packets."""

    sent: tuple[bytes, ...]
    arrived: tuple[bytes, ...]

    @property
    def changed(self) -> int:
        """How many arrived as something that was not sent."""
        sent = set(self.sent)
        return sum(packet not in sent for packet in self.arrived)


def packets(source: str, destination: str, count: int, seed: int = 8) -> tuple[bytes, ...]:
    """IPv4 packets of every size up to 1440 bytes: odd protocols, ECN and DSCP marks, fragments.

    Raises:
        LinkError: scapy is not installed.
    """
    try:
        from scapy.layers.inet import ICMP, IP, TCP, UDP
        from scapy.packet import Raw
    except ImportError as error:
        raise LinkError("crafted packets need scapy: pip install 'airloom[testbed]'") from error
    rng = random.Random(seed)
    made = []
    for number in range(count):
        payload = Raw(rng.randbytes(rng.randint(0, 1400)))
        inner = rng.choice((UDP(sport=1000 + number, dport=9), TCP(dport=9), ICMP(type=0)))
        ip = IP(
            src=source,
            dst=destination,
            id=number + 1,
            tos=rng.randrange(256),
            ttl=rng.randint(1, 255),
            proto=rng.choice((None, 253)),
            flags=rng.choice(("", "DF", "MF")),
        )
        made.append(bytes(ip / inner / payload))
    return tuple(made)


def cross(sender: End, receiver: End, sent: tuple[bytes, ...], longest_delay_s: float) -> Crossing:
    """Send packets through a link and capture what comes out at its other end."""
    source = socket.inet_aton(sender[1])
    with network_namespace(receiver[0]):
        capturing = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_IP))
    with network_namespace(sender[0]):
        sending = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    arrived: list[bytes] = []
    with capturing, sending:
        capturing.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        for packet in sent:
            sending.sendto(packet, (receiver[1], 0))
        deadline_s = time.monotonic() + longest_delay_s + _SILENCE_S
        while (left_s := deadline_s - time.monotonic()) > 0 and len(arrived) < len(sent):
            capturing.settimeout(left_s)
            try:
                packet, where = capturing.recvfrom(_RECEIVE_BYTES)
            except TimeoutError:
                break
            outgoing = where[2] == socket.PACKET_OUTGOING
            if packet[12:16] == source and not outgoing:
                # Ethernet pads short frames; the packet ends where its own length says.
                arrived.append(packet[: int.from_bytes(packet[2:4], "big")])
    return Crossing(sent, tuple(arrived))


def judge_crossing(
    link: LinkConditions, device: End, cloud: End, count: int = 200
) -> list[Verdict]:
    """Say for each direction whether crafted packets arrive as they were sent.

    Where a link is asked to flip bits there is nothing to say.
    """
    verdicts = []
    ways = (("uplink", link.uplink, device, cloud), ("downlink", link.downlink, cloud, device))
    for way, conditions, sender, receiver in ways:
        if conditions.corrupt or not conditions.up:
            continue
        sent = packets(sender[1], receiver[1], count)
        transmission_ms = sum(conditions.transmission_ms(len(packet)) for packet in sent)
        longest_s = (conditions.longest_delay_ms + transmission_ms) / 1e3
        crossing = cross(sender, receiver, sent, longest_s)
        verdicts.append(
            Verdict(
                way, "changed", "packets", 0, crossing.changed, None, None, "none",
                plainly(crossing.changed == 0 and bool(crossing.arrived)),
                f"of {len(crossing.arrived)} that arrived, of {len(sent)} crafted",
            )
        )  # fmt: skip
    return verdicts
