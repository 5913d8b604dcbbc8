"""What a change of conditions, and a replay, do to packets on their way.

tests/netem runs those that need netem on a kernel that has it.
"""

from __future__ import annotations

import json
import random
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from shaping import INTERFACE, PATIENCE_S, in_a_sandbox, netctl, qdisc, tc, wait_until, with_netem

from netctl.backends.kernel import read_back, send
from netctl.backends.kernel.netlink import Netlink
from netctl.backends.kernel.tree import Tree, tree
from netctl.conditions.link import DirectionConditions, Slots
from netctl.traces.files import read_opportunities

_OURS = 0x88B5
"""An EtherType for experiments: nobody else's frames are counted."""


def frame(payload_bytes: int) -> bytes:
    return b"\xff" * 12 + _OURS.to_bytes(2, "big") + bytes(payload_bytes)


class Ends:
    """Both ends of the interface, as raw sockets."""

    def __init__(self) -> None:
        tc("ip", "link", "set", "peer9", "up")
        self.sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self.sender.bind((INTERFACE, 0))
        self.receiver = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_OURS))
        self.receiver.bind(("peer9", _OURS))
        self.receiver.settimeout(PATIENCE_S)

    def delay_ms(self) -> float:
        """How long one frame takes, alone."""
        began_s = time.monotonic()
        self.sender.send(frame(64))
        self.receiver.recv(2048)
        return (time.monotonic() - began_s) * 1e3


def changed(before: DirectionConditions, after: DirectionConditions) -> Tree | None:
    """Make a tree, change it, and read it back."""
    with Netlink() as netlink:
        send.install(netlink, INTERFACE, tree(before))
        wanted = tree(after)
        send.change(netlink, INTERFACE, wanted)
        read_back.check(netlink, INTERFACE, wanted)
        return read_back.read_back(netlink, INTERFACE)


@with_netem
def test_netem_slots_are_cleared_by_a_change() -> None:
    def check() -> None:
        slotted = DirectionConditions(delay_ms=5, slots=Slots(20, 30, packets=3))
        shown = changed(slotted, DirectionConditions(delay_ms=5))
        assert shown is not None
        assert shown.netem is not None
        assert shown.netem.slots is None
        assert "slot" not in qdisc("netem")["options"]

    in_a_sandbox(check)


@with_netem
def test_netem_delays_are_uniform_again_after_a_change_from_pareto() -> None:
    def check() -> None:
        uniform = DirectionConditions(delay_ms=40, jitter_ms=20)
        changed(DirectionConditions(delay_ms=40, jitter_ms=20, distribution="pareto"), uniform)
        ends = Ends()
        # A Pareto's least is 28 ms here, and a fifth of a uniform distribution lies below 27.
        assert any(ends.delay_ms() < 27 for _ in range(100))

    in_a_sandbox(check)


def sparse_trace(path: Path) -> None:
    """Bursts of packets, seconds without any, and the first of them late."""
    chance, times, at_ms = random.Random(7), [], 2000
    while at_ms < 9000:
        often = chance.random() < 0.9
        at_ms += chance.choice((1, 2, 3, 10)) if often else chance.randrange(300, 1500)
        times.append(at_ms)
    path.write_text("".join(f"{one}\n" for one in times))


def test_a_replay_of_a_sparse_trace_sends_what_it_allows() -> None:
    def check() -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trace"
            sparse_trace(path)
            trace = read_opportunities(path)
            ends, over = Ends(), threading.Event()
            ends.receiver.settimeout(0.1)
            arrived = []

            def receive() -> None:
                while not over.is_set():
                    try:
                        ends.receiver.recv(2048)
                        arrived.append(time.monotonic())
                    except TimeoutError:
                        continue

            listening = threading.Thread(target=receive)
            listening.start()
            queue = ("--queue", "60 s")
            # The trace begins later, by however long it takes to start.
            began_s = time.monotonic()
            process = netctl("replay", INTERFACE, "--trace", str(path), "--json", *queue)
            wait_until(lambda: "htb" in tc("tc", "qdisc", "show", "dev", INTERFACE))
            # More than the trace allows, so that no opportunity waits for this process.
            for _ in range(2 * len(trace.times_ms)):
                ends.sender.send(frame(1500))
            process.wait(timeout=PATIENCE_S)
            over.set()
            listening.join()
        output, errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, errors
        assert json.loads(output)["changes"] > 0
        # One packet passes a meter that has just been made.
        assert sum(at - began_s < 1.9 for at in arrived) <= 1
        allowed = trace.allowed_bytes(0, trace.period_ms) / 1500
        found = len(arrived)
        assert allowed - 6 <= found <= allowed + 6, f"{found} packets, not {allowed}"

    in_a_sandbox(check)


def test_options_that_could_only_be_ignored_are_refused(tmp_path: Path) -> None:
    trace, table = tmp_path / "trace", tmp_path / "table.csv"
    trace.write_text("1\n2\n")
    table.write_text("time_s,rate_mbps,delay_ms\n0,1,20\n1,2,30\n")
    replay = ("replay", "lo", "--trace")
    for arguments, says in (
        ((*replay, str(trace), "--rate", "1 Mbit/s"), "--rate is what the trace says"),
        ((*replay, str(trace), "--interpolate", "1 ms"), "--interpolate is for tables"),
        ((*replay, str(table), "--delay", "1 ms"), "--delay is what the trace says"),
        (("shape", "lo", "--rate", "1 Mbit/s", "--json"), "unrecognized arguments: --json"),
        (("shape", "lo", "--way", "downlink"), "--way downlink is of a profile"),
    ):
        _, errors = (process := netctl(*arguments)).communicate(timeout=PATIENCE_S)
        assert process.returncode != 0
        assert says in errors, (arguments, errors)


@pytest.mark.parametrize(("queue", "limit"), [([], 1 << 18), (["--queue", "100 ms"], 75_700)])
def test_a_replay_has_the_queue_that_was_asked_for(queue: list[str], limit: int) -> None:
    def check() -> None:
        with tempfile.TemporaryDirectory() as folder:
            trace = Path(folder) / "trace"
            # 500 opportunities of 1514 bytes of frame a second; 1500 of them are IP's.
            trace.write_text("".join(f"{at}\n" for at in range(2, 2001, 2)))
            process = netctl("replay", INTERFACE, "--trace", str(trace), "--for", "60 s", *queue)
            wait_until(lambda: "bfifo" in tc("tc", "qdisc", "show", "dev", INTERFACE))
            assert qdisc("bfifo")["options"]["limit"] == pytest.approx(limit, rel=0.02)
            process.terminate()
            process.wait(timeout=PATIENCE_S)

    in_a_sandbox(check)
