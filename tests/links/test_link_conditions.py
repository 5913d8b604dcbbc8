"""A link is what it was asked to be, on every backend that this kernel has.

Run on the host and, by tests/netem, inside a user-mode kernel that has sch_netem.
"""

from __future__ import annotations

import contextlib
import math
import socket
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from bench import CLOUD, DEVICE, measured_link, on_link
from measuring import WITHIN_S, measure_until_told

from netctl.backends import BACKENDS, execute
from netctl.backends.capabilities import probe
from netctl.conditions.link import DirectionConditions, LinkConditions
from netctl.linux import network_namespace
from netctl.measure.prober import Path as Way
from testbed.fidelity import check_direction
from testbed.runner.plan import BoardPlan

CAPABILITIES = probe()
WORKING = [backend.name for backend in BACKENDS.values() if backend.missing(CAPABILITIES) is None]

CASES = {
    "wifi": LinkConditions(
        DirectionConditions(10_000_000, 3, 1, 0.001), DirectionConditions(15_000_000, 3, 1, 0.001)
    ),
    "lte": LinkConditions(
        DirectionConditions(8_000_000, 25, 4, 0.002), DirectionConditions(12_000_000, 22, 3, 0.002)
    ),
    "edge": LinkConditions(
        DirectionConditions(400_000, 90, 10, 0.04), DirectionConditions(900_000, 80, 10, 0.03)
    ),
    "no-rate": LinkConditions(
        DirectionConditions(None, 10, 5, 0.10), DirectionConditions(None, 30, 0, 0)
    ),
}


def test_some_backend_works_on_this_kernel() -> None:
    assert WORKING


def deviations(conditions: LinkConditions, measured: dict[str, Any]) -> list[str]:
    """Where the measured link is not what was asked."""
    wrong = []
    for way, asked in (("uplink", conditions.uplink), ("downlink", conditions.downlink)):
        found = measured[way]
        if found["reordered"]:
            wrong.append(f"{way}: {found['reordered']} packets reordered")
        for check in check_direction(way, asked, found):
            # A busy machine may keep a rate from being told: it is measured again.
            untold = check.quantity != "loss" and check.outcome == "inconclusive"
            if untold or not check.ok:
                wrong.append(f"{way}: {check.quantity} {check.measured}, asked {check.asked}")
    return wrong


@pytest.mark.timeout(2 * WITHIN_S)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("backend", WORKING)
def test_measured_is_what_was_asked(backend: str, case: str, tmp_path: Path) -> None:
    conditions = CASES[case]

    def measure() -> tuple[list[str], float]:
        found = measured_link(backend, conditions, tmp_path / "result.json")
        if "inconclusive" in found:
            return [found["inconclusive"]], math.inf
        # What the kernel shows was compared with what was asked for when the link was made.
        trees = sum(2 if way.rate_bps else 1 for way in (conditions.uplink, conditions.downlink))
        assert len(found["read_back"]) == (trees if backend == "netem" else 0)
        measured = found["measured"]
        late_ms = max(measured[way]["late_ms"] for way in ("uplink", "downlink"))
        return deviations(conditions, measured), late_ms

    measure_until_told(measure)


@pytest.mark.parametrize("backend", WORKING)
def test_queues_count_bytes_and_a_lonely_packet_takes_its_time(
    backend: str, tmp_path: Path
) -> None:
    asked = DirectionConditions(400_000, 20, queue_ms=300)

    def use(_: BoardPlan) -> dict[str, Any]:
        ways = Way(("board", DEVICE), ("cloud", CLOUD))
        with contextlib.closing(ways):
            ways.stream(5, 1472, 0.05, 1.0)
            lonely, _ = ways.stream(10, 1472, 0.2, 1.0)
            # 70 % of the rate in 128-byte packets, as many at a time as half of the queue holds.
            gap_s = asked.transmission_ms(128) / 1e3 / 0.7
            small, _ = ways.stream(600, 100, gap_s, 1.0, burst=50)
        least_ms = min(one.received_ns - one.sent_ns for one in lonely) / 1e6
        return {"lonely_ms": least_ms, "small": len(small)}

    # The way back is free: the first packets resolve addresses across it.
    link = LinkConditions(asked, DirectionConditions())
    found = on_link(backend, link, tmp_path / "result.json", use)
    assert found["lonely_ms"] >= 20 + asked.transmission_ms(1500) - 0.5
    # A busy machine may send several bursts at once, and the queue holds some 100 packets.
    assert found["small"] >= 590


@pytest.mark.parametrize("backend", WORKING)
def test_a_link_changes_while_packets_are_under_way(backend: str, tmp_path: Path) -> None:
    """Each change holds from then on, the rate too, and loses nothing of what was queued."""
    first = LinkConditions(DirectionConditions(2_000_000, 40), DirectionConditions(None, 5))
    cut = replace(first, uplink=replace(first.uplink, up=False))
    later = LinkConditions(DirectionConditions(8_000_000, 10), DirectionConditions(None, 25))

    def use(board: BoardPlan) -> dict[str, list[float]]:
        def change(conditions: LinkConditions) -> None:
            execute.run_all(BACKENDS[backend].changes(board.link, conditions))

        with network_namespace("cloud"):
            there = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with network_namespace("board"):
            here = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        there.bind((CLOUD, 5000))
        there.settimeout(8.0)

        def arrivals_ms(count: int) -> list[float]:
            """After sending so many packets at once."""
            begin_s = time.monotonic()
            for _ in range(count):
                here.sendto(bytes(972), (CLOUD, 5000))
            return received_ms(count, begin_s)

        def received_ms(count: int, begin_s: float) -> list[float]:
            found = []
            for _ in range(count):
                try:
                    there.recv(2000)
                except TimeoutError:
                    break
                found.append((time.monotonic() - begin_s) * 1e3)
            return found

        arrivals_ms(1)  # resolves addresses
        found = {"first": arrivals_ms(21)}
        begin_s = time.monotonic()
        for _ in range(20):
            here.sendto(bytes(972), (CLOUD, 5000))
        change(later)
        found["queued"] = received_ms(20, begin_s)
        for _ in range(10):
            # A busy moment of this machine makes it later than it was before.
            found["later"] = arrivals_ms(21)
            if statistics.median(found["later"]) < statistics.median(found["first"]):
                break
        change(cut)
        found["cut"] = arrivals_ms(3)
        change(first)
        found["again"] = arrivals_ms(21)
        return found

    found = on_link(backend, first, tmp_path / "result.json", use, varying=True)
    frame_ms = (972 + 28 + 14) * 8 / 1e3
    for name, rate_mbps, delay_ms in (("first", 2, 40), ("later", 8, 10), ("again", 2, 40)):
        times = found[name]
        assert len(times) == 21, name
        assert times[0] >= delay_ms
        # A busy moment of this machine may make it later, nothing may make it faster.
        assert times[-1] >= delay_ms + 0.8 * 20 * frame_ms / rate_mbps, name
    assert statistics.median(found["later"]) < statistics.median(found["first"])
    assert len(found["queued"]) == 20
    assert found["cut"] == []
