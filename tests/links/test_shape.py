"""`netctl shape` on an interface that somebody needs: it is restored, whatever happens.

Every test runs in a sandbox with an interface of its own. tests/netem runs those that need netem
on a kernel that has it.
"""

from __future__ import annotations

import json
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from shaping import (
    INTERFACE,
    NETEM,
    PATIENCE_S,
    in_a_sandbox,
    loss,
    netctl,
    qdisc,
    shape,
    tc,
    wait_until,
    with_netem,
)

from netctl.linux import network_namespace


@with_netem
def test_netem_shapes_until_told_to_stop() -> None:
    def check() -> None:
        before = qdisc()
        process = shape(
            "--rate", "12 Mbit/s", "--delay", "20 ms", "--jitter", "2 ms", "--loss", "1 %"
        )
        shaped = qdisc("netem")
        assert shaped["options"]["delay"]["delay"] == pytest.approx(0.020)
        assert shaped["options"]["loss-random"]["loss"] == pytest.approx(0.01)
        assert shaped["options"]["rate"]["rate"] == 12_000_000 / 8
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=PATIENCE_S)
        assert "is restored" in errors
        assert process.returncode == 0
        assert qdisc() == before

    in_a_sandbox(check)


@with_netem
def test_netem_is_removed_when_the_time_is_over() -> None:
    def check() -> None:
        before = qdisc()
        process = shape("--delay", "5 ms", "--for", "0.5 s")
        assert process.wait(timeout=PATIENCE_S) == 0
        assert qdisc() == before

    in_a_sandbox(check)


@with_netem
def test_netem_is_removed_when_the_command_is_killed() -> None:
    def check() -> None:
        before = qdisc()
        shape("--delay", "5 ms").kill()
        wait_until(lambda: qdisc() == before)
        # Nothing is left that would keep the next one from shaping.
        again = shape("--delay", "7 ms")
        again.terminate()
        assert again.wait(timeout=PATIENCE_S) == 0

    in_a_sandbox(check)


@with_netem
def test_netem_is_removed_when_the_command_hangs_and_the_lease_runs_out() -> None:
    def check() -> None:
        before = qdisc()
        process = shape("--delay", "5 ms", "--lease", "1 s")
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: qdisc() == before)
        process.send_signal(signal.SIGCONT)
        _, errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 1
        assert f"the lease of {INTERFACE} ran out" in errors

    in_a_sandbox(check)


@with_netem
def test_netem_is_removed_though_a_guardian_was_killed_as_well() -> None:
    def check() -> None:
        before = qdisc()
        process = shape("--delay", "5 ms")
        psutil.Process(process.pid).children()[0].kill()
        process.kill()
        wait_until(lambda: qdisc() == before)

    in_a_sandbox(check)


@with_netem
def test_netem_that_somebody_changes_is_noticed_and_taken_away() -> None:
    def check() -> None:
        before = qdisc()
        process = shape("--delay", "5 ms", "--lease", "2 s")
        handle = qdisc("netem")["handle"]
        parent = qdisc("netem")["parent"]
        change = ("tc", "qdisc", "change", "dev", INTERFACE, "parent", parent, "handle", handle)
        tc(*change, "netem", "delay", "50ms")
        _, errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 1
        assert "netem.latency_ns is 50000000, not 5000000" in errors
        assert qdisc() == before

    in_a_sandbox(check)


@with_netem
def test_netem_follows_a_profile_that_changes_over_time() -> None:
    def check() -> None:
        process = shape("--profile", "elevator", "--for", "50 s")
        assert qdisc("netem")["options"]["rate"]["rate"] == 21_000_000 / 8
        wait_until(lambda: loss() == 1)
        wait_until(lambda: loss() == 0)
        assert process.wait(timeout=PATIENCE_S) == 0

    in_a_sandbox(check)


@with_netem
def test_netem_begins_when_it_is_told_to() -> None:
    def check() -> None:
        at_s = time.time() + 3
        process = netctl("shape", INTERFACE, "--delay", "25 ms", "--at", f"{at_s:f}")
        wait_until(lambda: "netem" in tc("tc", "qdisc", "show", "dev", INTERFACE))
        assert "delay" not in qdisc("netem")["options"]
        assert process.stderr is not None
        words = process.stderr.readline().split()
        assert words[:2] == [INTERFACE, "changed"]
        assert time.time() >= at_s
        assert float(words[2]) < 500
        assert qdisc("netem")["options"]["delay"]["delay"] == pytest.approx(0.025)
        process.terminate()
        assert process.wait(timeout=PATIENCE_S) == 0

    in_a_sandbox(check)


@with_netem
def test_netem_delays_all_but_what_is_exempt() -> None:
    def check() -> None:
        tc("ip", "address", "add", "10.3.0.1/24", "dev", INTERFACE)
        process = shape("--delay", "200 ms", "--exempt", "udp/5353")
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800)) as far:
            tc("ip", "link", "set", "peer9", "up")
            tc(
                "ip",
                "neighbour",
                "replace",
                "10.3.0.2",
                "lladdr",
                "02:00:00:00:00:01",
                "dev",
                INTERFACE,
            )
            far.bind(("peer9", 0x0800))
            far.settimeout(PATIENCE_S)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                held_s = {}
                for port in (9999, 5353):
                    began_s = time.monotonic()
                    sender.sendto(b"x", ("10.3.0.2", port))
                    while struct.unpack_from("!H", far.recv(2048), 14 + 22)[0] != port:
                        pass
                    held_s[port] = time.monotonic() - began_s
        assert held_s[9999] >= 0.2
        assert held_s[5353] < 0.2
        process.terminate()
        assert process.wait(timeout=PATIENCE_S) == 0

    in_a_sandbox(check)


@with_netem
def test_netem_replays_a_table_of_rates_delays_and_losses() -> None:
    def check() -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".csv") as table:
            table.write("time_s,rate_mbps,delay_ms,loss\n0,8,20,0\n2,4,40,0.1\n4,0,40,0\n")
            table.flush()
            process = netctl("replay", INTERFACE, "--trace", table.name, "--json")
            wait_until(lambda: '"delay":0.02' in tc("tc", "-j", "qdisc", "show", "dev", INTERFACE))
            wait_until(lambda: loss() == pytest.approx(0.1))
            shown = tc("tc", "class", "show", "dev", INTERFACE)
            assert "rate 4Mbit" in shown
            wait_until(lambda: loss() == 1)
            output, _ = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0
        assert json.loads(output)["changes"] == 3

    in_a_sandbox(check)


OPPORTUNITIES = "".join(f"{at}\n" for at in range(1, 2001, 2))
"""In Mahimahi's format: a packet each other millisecond for two seconds."""


def replay_of_opportunities(folder: str, *arguments: str) -> subprocess.Popen[str]:
    trace = Path(folder) / "trace"
    trace.write_text(OPPORTUNITIES)
    return netctl("replay", INTERFACE, "--trace", str(trace), *arguments)


def test_a_replay_that_hangs_loses_its_lease() -> None:
    def check() -> None:
        before = qdisc()
        with tempfile.TemporaryDirectory() as folder:
            process = replay_of_opportunities(folder, "--for", "600 s", "--lease", "1 s")
            wait_until(lambda: qdisc() != before)
            process.send_signal(signal.SIGSTOP)
            wait_until(lambda: qdisc() == before)
            process.send_signal(signal.SIGCONT)
            _, errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 1
        assert INTERFACE in errors

    in_a_sandbox(check)


def test_what_somebody_changes_below_a_replay_is_noticed_and_taken_away() -> None:
    def check() -> None:
        before = qdisc()
        with tempfile.TemporaryDirectory() as folder:
            process = replay_of_opportunities(folder, "--for", "600 s", "--lease", "2 s")
            wait_until(lambda: "bfifo" in tc("tc", "qdisc", "show", "dev", INTERFACE))
            queue = qdisc("bfifo")
            tc(
                "tc", "qdisc", "change", "dev", INTERFACE, "parent", queue["parent"],
                "handle", queue["handle"], "bfifo", "limit", "4000",
            )  # fmt: skip
            _, errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 1
        assert "queue.limit is 4000, not " in errors
        assert qdisc() == before

    in_a_sandbox(check)


def ordered(process: subprocess.Popen[str], order: dict[str, Any]) -> dict[str, Any]:
    """Give a holding netctl an order; its answer."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(order) + "\n")
    process.stdin.flush()
    answer: dict[str, Any] = json.loads(process.stdout.readline())
    return answer


def holding(*arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "netctl.cli", "hold", INTERFACE, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert json.loads(process.stdout.readline()) == {"error": None, "holds": INTERFACE}
    return process


@with_netem
def test_netem_is_held_for_a_controller_that_changes_everything() -> None:
    def check() -> None:
        before = qdisc()
        process = holding()
        for conditions in (
            {"delay_ms": 30, "jitter_ms": 5, "loss": 0.01},
            {"rate_bps": 2_000_000, "delay_ms": 80, "queue_bytes": 20_000},
            {"up": False},
            {},
        ):
            answer = ordered(process, {"conditions": conditions})
            assert (answer["error"], answer["differences"]) == (None, [])
            delay_s = qdisc("netem")["options"].get("delay", {}).get("delay", 0)
            assert delay_s == pytest.approx(conditions.get("delay_ms", 0) / 1e3)
        at_s = time.time() + 2
        answer = ordered(process, {"conditions": {"delay_ms": 10}, "at_s": at_s})
        assert time.time() >= at_s
        assert 0 <= answer["late_ms"] < 500
        assert "zero or more" in ordered(process, {"conditions": {"delay_ms": -1}})["error"]
        assert "not speed" in ordered(process, {"speed": 1})["error"]
        assert ordered(process, {}) == {"error": None}
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(timeout=PATIENCE_S) == 0
        assert qdisc() == before

    in_a_sandbox(check)


@with_netem
def test_netem_is_let_go_when_the_controller_falls_silent() -> None:
    def check() -> None:
        before = qdisc()
        process = holding("--lease", "1 s")
        ordered(process, {"conditions": {"delay_ms": 30}})
        assert process.wait(timeout=PATIENCE_S) == 1
        assert process.stderr is not None
        assert f"no order came for 1 s: {INTERFACE} is restored" in process.stderr.read()
        assert qdisc() == before

    in_a_sandbox(check)


def far_end() -> None:
    """Another namespace behind the interface."""
    for command in (
        "ip netns add far",
        "ip link set peer9 netns far",
        f"ip address add 10.3.0.1/24 dev {INTERFACE}",
        "ip -n far address add 10.3.0.2/24 dev peer9",
        "ip -n far link set peer9 up",
    ):
        tc(*command.split())


def arrival_s() -> float:
    """How long a packet takes from the far end to this one."""
    with network_namespace("far"):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sender, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("10.3.0.1", 0))
        receiver.settimeout(PATIENCE_S)
        times = []
        # The first one resolves addresses.
        for _ in range(2):
            began_s = time.monotonic()
            sender.sendto(b"x", receiver.getsockname())
            receiver.recv(16)
            times.append(time.monotonic() - began_s)
        return times[-1]


@with_netem
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_netem_shapes_what_arrives_and_leaves_nothing_behind(how: signal.Signals) -> None:
    def check() -> None:
        far_end()
        before = tc("tc", "qdisc", "show"), tc("ip", "-o", "link", "show")
        process = shape("--delay", "300 ms", "--incoming")
        assert 0.3 <= arrival_s() < 0.9
        process.send_signal(how)
        process.wait(timeout=PATIENCE_S)
        wait_until(lambda: (tc("tc", "qdisc", "show"), tc("ip", "-o", "link", "show")) == before)
        assert arrival_s() < 0.3

    in_a_sandbox(check)


@with_netem
def test_netem_leaves_somebody_elses_ingress_alone() -> None:
    def check() -> None:
        tc("tc", "qdisc", "add", "dev", INTERFACE, "clsact")
        before = tc("tc", "qdisc", "show")
        process = netctl("shape", INTERFACE, "--delay", "5 ms", "--incoming")
        _, errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 1
        assert "already carries a clsact qdisc that netctl did not make" in errors
        assert tc("tc", "qdisc", "show") == before

    in_a_sandbox(check)


@with_netem
def test_netem_left_by_killing_everything_is_undone_by_restore() -> None:
    def check() -> None:
        before = qdisc()
        process = shape("--delay", "5 ms")
        for guardian in psutil.Process(process.pid).children():
            guardian.kill()
        process.kill()
        process.wait()
        assert qdisc("netem")
        output, _ = netctl("restore").communicate(timeout=PATIENCE_S)
        assert output == f"restored {INTERFACE}\n"
        assert qdisc() == before

    in_a_sandbox(check)


@with_netem
def test_netem_is_not_put_over_what_somebody_else_set() -> None:
    def check() -> None:
        tc("tc", "qdisc", "add", "dev", INTERFACE, "root", "handle", "7:", "netem", "delay", "1ms")
        before = qdisc()
        process = netctl("shape", INTERFACE, "--delay", "5 ms")
        _, errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 1
        assert f"{INTERFACE} already carries a netem qdisc (handle 7:)" in errors
        assert qdisc() == before

    in_a_sandbox(check)


@with_netem
def test_netem_is_shaped_by_one_command_at_a_time() -> None:
    def check() -> None:
        first = shape("--delay", "5 ms")
        second = netctl("shape", INTERFACE, "--delay", "9 ms")
        _, errors = second.communicate(timeout=PATIENCE_S)
        assert second.returncode == 1
        assert "netctl: " in errors
        assert qdisc("netem")["options"]["delay"]["delay"] == pytest.approx(0.005)
        first.terminate()
        assert first.wait(timeout=PATIENCE_S) == 0

    in_a_sandbox(check)


@pytest.mark.skipif(NETEM is None, reason="this kernel has netem, and so does more")
def test_a_kernel_with_rates_only_shapes_those_and_refuses_the_rest_with_the_reason() -> None:
    def check() -> None:
        before = qdisc()
        process = netctl("shape", INTERFACE, "--delay", "5 ms")
        _, errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 1
        assert "this kernel has no netem, and so can only shape rates" in errors
        assert "not delay_ms" in errors
        assert errors.count("\n") == 1
        assert qdisc() == before
        process = shape("--rate", "8 Mbit/s", "--queue", "100 ms")
        assert "rate 8Mbit ceil 8Mbit" in tc("tc", "class", "show", "dev", INTERFACE)
        assert qdisc("bfifo")["options"]["limit"] == 100_000
        process.kill()
        wait_until(lambda: qdisc() == before)

    in_a_sandbox(check)


def test_bad_conditions_are_refused_before_anything_is_touched() -> None:
    for arguments, says in (
        (("--delay", "5"), "unit"),
        (("--delay", "5 ms", "--jitter", "6 ms"), "jitter"),
        (("--loss", "120 %"), "loss"),
    ):
        process = netctl("shape", "lo", *arguments)
        _, errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode != 0
        assert says in errors
