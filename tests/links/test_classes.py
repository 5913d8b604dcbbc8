"""Traffic sorted into classes: each has its own conditions, and all share a rate.

In a sandbox, on frames counted at the far end of an interface; tests/netem runs these on a kernel with
netem, in that kernel's own time.
"""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from bench import CLOUD, DEVICE
from sandboxes import run_in_sandbox
from shaping import (
    INTERFACE,
    PATIENCE_S,
    in_a_sandbox,
    netctl,
    shape,
    tc,
    with_netem,
)

from netctl.backends import BACKENDS, execute
from netctl.backends.base import LinkSpec, namespace_commands
from netctl.conditions.link import DirectionConditions, LinkConditions
from netctl.linux import network_namespace

PAYLOAD_BYTES = 958
FRAME_BITS = (PAYLOAD_BYTES + 28 + 14) * 8
NEAR, FAR, OTHER, FAR6 = "10.3.0.2", "10.3.0.3", "10.3.0.9", "fd00::3"
_SO_SNDBUFFORCE, _SO_MARK = 32, 36

CLASSES = """
rate: 8 Mbit/s
classes:
  near:
    match: [{destination: 10.3.0.2}]
    delay: 20 ms
    queue: {bytes: 2 MB}
  far:
    match: [{destination: 10.3.0.3/32, protocol: udp, destination_port: 9}, {destination: "fd00::3"}]
    weight: 3
    delay: 60 ms
    loss: 50 %
    queue: {bytes: 2 MB}
  marked: {match: [{mark: 7}], delay: 100 ms, rate: 1 Mbit/s}
others: {delay: 5 ms}
"""


def with_classes(check: Callable[[], None], classes: str = CLASSES) -> None:
    """Shape the interface so, with neighbours that need no answer, and look what the check finds."""

    def body() -> None:
        tc("ip", "link", "set", "peer9", "up")
        tc("ip", "address", "add", "10.3.0.1/24", "dev", INTERFACE)
        tc("ip", "address", "add", "fd00::1/64", "dev", INTERFACE, "nodad")
        there = json.loads(tc("ip", "-j", "link", "show", "peer9"))[0]["address"]
        for address in (NEAR, FAR, OTHER, FAR6):
            tc("ip", "neigh", "add", address, "lladdr", there, "dev", INTERFACE)
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            file.write(classes)
            file.flush()
            process = shape("--classes", file.name)
            check()
            process.terminate()
            assert process.wait(timeout=PATIENCE_S) == 0
        assert "netem" not in tc("tc", "qdisc", "show", "dev", INTERFACE)

    in_a_sandbox(body)


def arrivals(*bursts: tuple[str, int, int], mark: int = 0) -> list[tuple[float, str]]:
    """Send bursts (address, port, packets) at once; when (in s from then) something came for whom."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003)) as there:
        there.bind(("peer9", 0x0003))
        there.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)
        there.settimeout(2.0)
        sockets = []
        begin_s = time.time()
        for address, port, count in bursts:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            sender = socket.socket(family, socket.SOCK_DGRAM)
            sender.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, 1 << 24)
            sender.setsockopt(socket.SOL_SOCKET, _SO_MARK, mark)
            sockets.append(sender)
            for _ in range(count):
                sender.sendto(bytes(PAYLOAD_BYTES), (address, port))
        found = []
        try:
            while True:
                frame = there.recv(2048)
                if len(frame) < PAYLOAD_BYTES:
                    continue
                (kind,) = struct.unpack_from("!H", frame, 12)
                if kind == 0x0800:
                    whom = socket.inet_ntoa(frame[30:34])
                else:
                    whom = socket.inet_ntop(socket.AF_INET6, frame[38:54])
                found.append((time.time() - begin_s, whom))
        except TimeoutError:
            pass
        for sender in sockets:
            sender.close()
        return found


def first_s(found: list[tuple[float, str]], whom: str) -> float:
    return next(at for at, address in found if address == whom)


@with_netem
def test_netem_gives_each_class_its_own_conditions() -> None:
    def check() -> None:
        found = arrivals((NEAR, 9, 1), (FAR, 10, 1), (FAR6, 9, 60), (OTHER, 9, 1))
        assert first_s(found, NEAR) == pytest.approx(0.020, abs=0.005)
        # Port 10 of the far one is in no class.
        assert first_s(found, FAR) == pytest.approx(0.005, abs=0.005)
        assert first_s(found, FAR6) == pytest.approx(0.060, abs=0.005)
        assert first_s(found, OTHER) == pytest.approx(0.005, abs=0.005)
        assert 10 < Counter(whom for _, whom in found)[FAR6] < 50
        far = arrivals((FAR, 9, 60))
        assert far[0][0] == pytest.approx(0.060, abs=0.005)
        assert 10 < len(far) < 50
        marked = arrivals((OTHER, 9, 20), mark=7)
        assert marked[0][0] == pytest.approx(0.100 + FRAME_BITS / 1e6, abs=0.02)
        assert marked[-1][0] == pytest.approx(0.100 + 20 * FRAME_BITS / 1e6, rel=0.15)

    with_classes(check)


@with_netem
def test_netem_classes_share_the_rate_by_their_weights_and_borrow_what_is_left() -> None:
    def check() -> None:
        alone = arrivals((NEAR, 9, 400))
        assert alone[-1][0] - alone[0][0] == pytest.approx(399 * FRAME_BITS / 8e6, rel=0.05)
        both = arrivals((NEAR, 9, 400), (FAR, 9, 2000))
        # While both wait: until the last of the near ones, or of the far ones, has come.
        end_s = min(max(at for at, whom in both if whom == one) for one in (NEAR, FAR))
        during = list(takewhile(lambda each: each[0] <= end_s, both))
        shares = Counter(whom for at, whom in during if at > 0.1)
        # Of 1 + 3 + the marked ones' and the others' 1 each, which these two borrow by their weights.
        assert shares[FAR] / shares[NEAR] == pytest.approx(3, rel=0.1)
        rate_bps = sum(shares.values()) * FRAME_BITS / (end_s - 0.1)
        assert rate_bps == pytest.approx(8e6, rel=0.05)

    with_classes(check)


@with_netem
def test_netem_classes_are_compared_with_what_the_kernel_has() -> None:
    def check() -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            file.write(CLASSES)
            file.flush()
            process = shape("--classes", file.name, "--lease", "2 s")
            shown = json.loads(netctl("show", INTERFACE, "--json").communicate()[0])
            assert len(shown["tree"]["branches"]) == 3
            tc("tc", "filter", "del", "dev", INTERFACE, "parent", "a1f3:", "prio", "12")
            _, errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 1
        assert "is not shaped as it was asked to be: class 2.filters" in errors
        assert "a1f3" not in tc("tc", "qdisc", "show", "dev", INTERFACE)

    in_a_sandbox(check)


def test_a_userspace_link_has_classes_too(tmp_path: Path) -> None:
    file = tmp_path / "classes.yaml"
    file.write_text(
        "rate: 8 Mbit/s\n"
        "classes:\n"
        f"  far: {{match: [{{destination: {FAR}}}], delay: 60 ms}}\n"
        f"  none: {{match: [{{destination: {NEAR}}}], up: false}}\n"
        "others: {delay: 10 ms}\n"
    )
    spec = LinkSpec(
        "board", "board", "cloud", f"{DEVICE}/30", f"{CLOUD}/30",
        LinkConditions(DirectionConditions(), DirectionConditions()), 1,
    )  # fmt: skip
    plan = BACKENDS["userspace-tun"].plan(spec)
    assert plan.process is not None

    def body() -> int:
        execute.run_all(namespace_commands(("board", "cloud")))
        process = execute.make_link(
            replace(plan, process=(*plan.process, "--uplink-classes", str(file)))
        )
        assert process is not None
        for address in (NEAR, FAR):
            tc("ip", "-n", "cloud", "address", "add", f"{address}/32", "dev", "board")
            tc("ip", "-n", "board", "route", "add", address, "dev", "air0")
        with network_namespace("cloud"):
            there = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with network_namespace("board"):
            here = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        there.bind(("0.0.0.0", 9))
        took_ms: dict[str, float | None] = {}
        for address in (CLOUD, FAR, NEAR):
            there.settimeout(1.0 if address == NEAR else 20.0)
            begin_s = time.monotonic()
            here.sendto(b"?", (address, 9))
            try:
                there.recv(10)
                took_ms[address] = (time.monotonic() - begin_s) * 1e3
            except TimeoutError:
                took_ms[address] = None
        process.terminate()
        output, _ = process.communicate(timeout=PATIENCE_S)
        assert took_ms[NEAR] is None
        # A busy moment of this machine makes it later, nothing makes it earlier.
        assert took_ms[CLOUD] is not None
        assert took_ms[FAR] is not None
        assert took_ms[CLOUD] >= 10
        assert took_ms[FAR] >= 60
        assert took_ms[CLOUD] < took_ms[FAR]
        assert json.loads(output)["uplink"]["delivered"] >= 2
        return 0

    assert run_in_sandbox(body) == 0


def test_what_is_wrong_with_classes_is_said_with_its_place() -> None:
    for text, words in (
        ("classes: {a: {match: [{}]}}", "a match needs at least one of"),
        ("classes: {a: {match: [{destination_port: 9}]}}", "needs protocol: tcp or udp"),
        ("classes: {a: {match: [{destination: 10.0.0.5/24}]}}", "has host bits set"),
        ("classes: {a: {match: [{mark: 7}], weight: 0}}", "weight"),
        ("rate: 8\nclasses: {a: {match: [{mark: 7}]}}", "has no unit"),
    ):
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            file.write(text)
            file.flush()
            done = subprocess.run(
                [sys.executable, "-m", "netctl.cli", "shape", "lo", "--classes", file.name],
                capture_output=True,
                text=True,
                timeout=PATIENCE_S,
                check=False,
            )
            assert done.returncode == 1
            assert file.name in done.stderr
            assert words in done.stderr
