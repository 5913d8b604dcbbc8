"""A link shapes packets; it must not change them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from bench import CLOUD, DEVICE, on_link

from netctl.backends import BACKENDS
from netctl.backends.capabilities import probe
from netctl.conditions.link import DirectionConditions, LinkConditions
from netctl.measure.crafted import Crossing, cross, judge_crossing, packets

CAPABILITIES = probe()
WORKING = [backend.name for backend in BACKENDS.values() if backend.missing(CAPABILITIES) is None]
PLAIN = DirectionConditions(delay_ms=5)


@pytest.mark.parametrize("backend", WORKING)
def test_packets_cross_unchanged_and_in_order(backend: str, tmp_path: Path) -> None:
    sent = packets(DEVICE, CLOUD, 60)
    device, cloud = ("board", DEVICE), ("cloud", CLOUD)

    def use(_: object) -> list[str]:
        return [packet.hex() for packet in cross(device, cloud, sent, 5.0).arrived]

    arrived = on_link(backend, LinkConditions(PLAIN, PLAIN), tmp_path / "result.json", use)
    assert arrived == [packet.hex() for packet in sent]


def test_a_packet_that_was_changed_is_noticed() -> None:
    sent = packets(DEVICE, CLOUD, 3)
    flipped = bytes([*sent[1][:-1], sent[1][-1] ^ 1])
    assert Crossing(sent, (sent[0], flipped, sent[2])).changed == 1
    assert Crossing(sent, sent[::2]).changed == 0


@pytest.mark.parametrize("backend", WORKING)
def test_crafted_packets_are_in_the_certificate(backend: str, tmp_path: Path) -> None:
    lossy = DirectionConditions(2_000_000, 5, loss=0.1, queue_ms=2000)
    flipping = DirectionConditions(delay_ms=5, corrupt=0.1)

    def use(_: object) -> list[tuple[str, bool, str]]:
        link = LinkConditions(lossy, flipping)
        found = judge_crossing(link, ("board", DEVICE), ("cloud", CLOUD), 100)
        return [(one.way, one.outcome == "as asked", one.remark) for one in found]

    found = on_link(backend, LinkConditions(lossy, flipping), tmp_path / "result.json", use)
    ((way, passed, remark),) = found
    assert (way, passed) == ("uplink", True)
    assert 50 < int(remark.split()[1]) < 100
