"""A link shapes packets; it must not change them."""

from __future__ import annotations

import random
import socket
import sys
import threading
from pathlib import Path

import pytest
from scapy.config import conf
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.packet import Packet, Raw
from scapy.sendrecv import AsyncSniffer

sys.path.insert(0, str(Path(__file__).parent))
from bench import CLOUD, DEVICE, on_link

from netctl.backends import BACKENDS
from netctl.capabilities import probe
from netctl.conditions import DirectionConditions, LinkConditions
from netctl.linux import network_namespace
from testbed.runner.plan import BoardPlan

CAPABILITIES = probe()
WORKING = [backend.name for backend in BACKENDS.values() if backend.missing(CAPABILITIES) is None]
PLAIN = DirectionConditions(delay_ms=5)


def packets(count: int) -> list[Packet]:
    """Packets of every size up to the MTU: odd protocols, ECN and DSCP marks, fragments, options."""
    rng = random.Random(8)
    made = []
    for number in range(count):
        payload = Raw(rng.randbytes(rng.randint(0, 1400)))
        inner = rng.choice((UDP(sport=1000 + number, dport=9), TCP(dport=9), ICMP(type=0)))
        ip = IP(
            src=DEVICE,
            dst=CLOUD,
            id=number + 1,
            tos=rng.randrange(256),
            ttl=rng.randint(1, 255),
            proto=rng.choice((None, 253)),
            flags=rng.choice(("", "DF", "MF")),
        )
        made.append(IP(bytes(ip / inner / payload)))
    return made


@pytest.mark.parametrize("backend", WORKING)
def test_packets_cross_unchanged_and_in_order(backend: str, tmp_path: Path) -> None:
    sent = packets(60)

    def use(board: BoardPlan) -> list[str]:
        started, seen = threading.Event(), threading.Event()
        arrived: list[str] = []

        def note(packet: Packet) -> None:
            if IP in packet and packet[IP].src == DEVICE:
                # Ethernet pads short frames; the packet ends where its own length says.
                arrived.append(bytes(packet[IP])[: packet[IP].len].hex())
            if len(arrived) == len(sent):
                seen.set()

        with network_namespace("cloud"):
            conf.ifaces.reload()
            listening = conf.L2listen(iface=board.link.cloud_interface)
        with network_namespace("board"):
            sending = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        sniffer = AsyncSniffer(
            opened_socket=listening, prn=note, store=False, started_callback=started.set
        )
        sniffer.start()
        assert started.wait(10)
        for packet in sent:
            sending.sendto(bytes(packet), (CLOUD, 0))
        seen.wait(5)
        sniffer.stop()
        return arrived

    arrived = on_link(backend, LinkConditions(PLAIN, PLAIN), tmp_path / "result.json", use)
    assert arrived == [bytes(packet).hex() for packet in sent]
