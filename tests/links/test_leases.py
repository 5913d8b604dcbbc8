"""Leases tell live holders from dead ones, and ours from somebody else's, whatever happens around them.

Only rates are shaped: that needs no netem.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from shaping import INTERFACE, PATIENCE_S, in_a_sandbox, netctl, qdisc, shape, tc, wait_until

from airloom.errors import LinkError
from netctl.backends.kernel.netlink import Netlink
from netctl.interface import ingress
from netctl.interface.held import held
from netctl.interface.lease import FOLDER, leases, locked
from netctl.interface.process import ProcessIdentity
from netctl.interface.restore import orphans, restore


def shaped_rate(interface: str = INTERFACE, namespace: str | None = None) -> float | None:
    """What the meter lets through, in bit/s; None where there is none."""
    from netctl.backends.kernel.read_back import read_back

    with Netlink(namespace) as netlink:
        shown = read_back(netlink, interface)
    return None if shown is None or shown.rate is None else 8 * shown.rate.rate_bytes_per_s


def kill_with_guardians(process: subprocess.Popen[str]) -> None:
    for guardian in psutil.Process(process.pid).children():
        guardian.kill()
    process.kill()
    process.wait()


def restored() -> dict[str, list[object]]:
    output, errors = netctl("restore", "--json").communicate(timeout=PATIENCE_S)
    assert not errors
    found: dict[str, list[object]] = json.loads(output)
    return found


def test_setting_the_clock_ends_no_live_lease(tmp_path: Path) -> None:
    def check() -> None:
        process = shape("--rate", "8 Mbit/s", "--lease", "60 s")
        # What every process sees of a clock that NTP has set an hour ahead: the machine started later.
        stat = Path("/proc/stat").read_text().splitlines(keepends=True)
        stat = [
            f"btime {int(line.split()[1]) + 3600}\n" if line.startswith("btime") else line
            for line in stat
        ]
        (tmp_path / "stat").write_text("".join(stat))
        tc("mount", "--bind", str(tmp_path / "stat"), "/proc/stat")
        assert restored() == {"restored": [], "orphans": []}
        assert shaped_rate() == 8e6
        process.terminate()
        assert process.wait(timeout=PATIENCE_S) == 0

    in_a_sandbox(check)


def test_a_dead_process_is_dead_before_its_parent_has_asked() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        here = ProcessIdentity.current()
        identity = ProcessIdentity(process.pid, int(fields[19]), here.boot_id, here.pid_namespace)
        assert identity.alive
        assert not ProcessIdentity(process.pid, 1, here.boot_id, here.pid_namespace).alive
        assert not ProcessIdentity(process.pid, int(fields[19]), "other", here.pid_namespace).alive
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not identity.alive


def test_a_holder_that_slept_leaves_the_next_holders_tree_alone() -> None:
    def check() -> None:
        free = qdisc()
        first = shape("--rate", "1 Mbit/s", "--lease", "1 s")
        first.send_signal(signal.SIGSTOP)
        wait_until(lambda: qdisc() == free)
        second = shape("--rate", "2 Mbit/s", "--lease", "60 s")
        first.send_signal(signal.SIGCONT)
        _, errors = first.communicate(timeout=PATIENCE_S)
        assert first.returncode == 1
        assert f"the lease of {INTERFACE} ran out" in errors
        assert shaped_rate() == 2e6
        (lease,) = leases()
        assert (lease.holder.pid, lease.held) == (second.pid, True)
        second.terminate()
        assert second.wait(timeout=PATIENCE_S) == 0
        assert qdisc() == free

    in_a_sandbox(check)


def test_a_holder_stopped_inside_the_lock_keeps_nobody_out() -> None:
    def stop_inside() -> None:
        with held(INTERFACE, 0.5), locked():
            os.kill(os.getpid(), signal.SIGSTOP)

    def check() -> None:
        child = os.fork()
        if child == 0:
            stop_inside()
            os._exit(0)
        _, status = os.waitpid(child, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        wait_until(lambda: os.waitpid(child, os.WNOHANG)[0] == child)
        wait_until(lambda: not leases())
        process = shape("--rate", "2 Mbit/s")
        process.terminate()
        assert process.wait(timeout=PATIENCE_S) == 0

    in_a_sandbox(check)


def test_a_lease_renewed_meanwhile_is_not_restored() -> None:
    def check() -> None:
        with held(INTERFACE, 60) as lease:
            (stale,) = leases()
            lease.renew()
            from netctl.interface.restore import release

            assert not release(stale, only_lapsed=True)
            lease.require()

    in_a_sandbox(check)


@contextlib.contextmanager
def another_namespace() -> Iterator[None]:
    """A namespace that has an interface of the same name."""
    tc("ip", "netns", "add", "other")
    tc("ip", "-n", "other", "link", "add", INTERFACE, "type", "veth", "peer", "name", "peer9")
    tc("ip", "-n", "other", "link", "set", INTERFACE, "up")
    yield
    tc("ip", "netns", "del", "other")


def shape_there(*conditions: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        ["ip", "netns", "exec", "other", sys.executable, "-m", "netctl.cli", "shape", INTERFACE,
         *conditions],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    assert "is shaped" in (line := process.stderr.readline()), line
    return process


def test_interfaces_of_one_name_in_two_namespaces_are_two() -> None:
    def check() -> None:
        with another_namespace():
            here = shape("--rate", "1 Mbit/s")
            there = shape_there("--rate", "2 Mbit/s")
            assert shaped_rate() == 1e6
            assert shaped_rate(namespace="other") == 2e6
            assert restored() == {"restored": [], "orphans": []}
            here.terminate()
            assert here.wait(timeout=PATIENCE_S) == 0
            assert shaped_rate(namespace="other") == 2e6
            kill_with_guardians(there)
            # Here, of what was left there.
            assert restored()["restored"] == [INTERFACE]
            assert shaped_rate(namespace="other") is None

    in_a_sandbox(check)


def test_what_no_lease_tells_of_is_named_and_removed_when_asked() -> None:
    def check() -> None:
        free = qdisc()
        tc("ip", "link", "add", "other9", "type", "veth", "peer", "name", "other8")
        tc("tc", "qdisc", "add", "dev", "other9", "root", "handle", "7:", "pfifo", "limit", "9")
        foreign = tc("tc", "qdisc", "show", "dev", "other9")
        for arguments in ([], ["--incoming"]):
            kill_with_guardians(shape("--rate", "1 Mbit/s", *arguments))
            for path in FOLDER.glob("*.json"):
                path.unlink()
        ifb = ingress.ifb_name(socket.if_nametoindex(INTERFACE))
        assert {one.interface for one in orphans()} == {INTERFACE, ifb}
        _, errors = netctl("shape", INTERFACE, "--rate", "2 Mbit/s").communicate(timeout=PATIENCE_S)
        assert "`netctl restore --orphans` takes it away" in errors
        output, _ = netctl("restore").communicate(timeout=PATIENCE_S)
        assert f"{INTERFACE}: a tree of netctl's that nobody holds: left alone" in output
        assert shaped_rate() == 1e6
        output, _ = netctl("restore", "--orphans").communicate(timeout=PATIENCE_S)
        assert f"{INTERFACE}: a tree of netctl's that nobody holds: removed" in output
        assert qdisc() == free
        assert orphans() == []
        assert ifb not in tc("ip", "link", "show")
        assert "ingress" not in tc("tc", "qdisc", "show", "dev", INTERFACE)
        assert tc("tc", "qdisc", "show", "dev", "other9") == foreign

    in_a_sandbox(check)


def somebody_elses_ingress() -> None:
    tc("tc", "qdisc", "add", "dev", INTERFACE, "handle", "ffff:", "ingress")


def somebody_elses_filter() -> None:
    tc(
        "tc", "filter", "add", "dev", INTERFACE, "parent", "ffff:", "protocol", "ip", "prio", "9",
        "u32", "match", "ip", "dport", "7", "0xffff", "flowid", "1:7",
    )  # fmt: skip


def incoming_rules() -> tuple[str, str]:
    return (
        tc("tc", "qdisc", "show", "dev", INTERFACE, "ingress"),
        tc("tc", "filter", "show", "dev", INTERFACE, "ingress"),
    )


@pytest.mark.parametrize("with_filter", [False, True])
def test_an_ingress_qdisc_that_came_in_between_is_left_alone(with_filter: bool) -> None:
    def check() -> None:
        with Netlink() as netlink, pytest.raises(LinkError, match="ingress qdisc that netctl did"):
            ingress.refuse_foreign_ingress(INTERFACE)
            with held(INTERFACE, 60, "incoming") as lease:
                with lease.exclusively():
                    ifb = ingress.make_ifb(netlink.index(INTERFACE))
                somebody_elses_ingress()
                if with_filter:
                    somebody_elses_filter()
                theirs = incoming_rules()
                ingress.redirect(netlink, INTERFACE, ifb)
        assert incoming_rules() == theirs
        assert ifb not in tc("ip", "link", "show")

    in_a_sandbox(check)


def test_a_filter_that_somebody_added_to_our_ingress_stays() -> None:
    def check() -> None:
        process = shape("--rate", "1 Mbit/s", "--incoming")
        somebody_elses_filter()
        process.terminate()
        assert process.wait(timeout=PATIENCE_S) == 0
        _, filters = incoming_rules()
        assert "pref 9" in filters
        assert "mirred" not in filters

    in_a_sandbox(check)


def test_an_ifb_goes_when_its_interface_goes() -> None:
    def check() -> None:
        process = shape("--rate", "1 Mbit/s", "--incoming", "--lease", "1 s")
        ifb = ingress.ifb_name(socket.if_nametoindex(INTERFACE))
        assert ifb in tc("ip", "link", "show")
        tc("ip", "link", "del", INTERFACE)
        _, errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 1
        assert f"the interface {INTERFACE} is gone" in errors
        assert ifb not in tc("ip", "link", "show")

    in_a_sandbox(check)


def test_a_killed_holders_ifb_goes_though_the_interface_went_before() -> None:
    def check() -> None:
        process = shape("--rate", "1 Mbit/s", "--incoming", "--lease", "60 s")
        ifb = ingress.ifb_name(socket.if_nametoindex(INTERFACE))
        kill_with_guardians(process)
        tc("ip", "link", "del", INTERFACE)
        assert restore() == [INTERFACE]
        assert ifb not in tc("ip", "link", "show")
        assert leases() == []

    in_a_sandbox(check)


def test_a_renamed_interface_is_restored() -> None:
    def check() -> None:
        free = qdisc()
        process = shape("--rate", "1 Mbit/s", "--lease", "60 s")
        tc("ip", "link", "set", INTERFACE, "down")
        tc("ip", "link", "set", INTERFACE, "name", "renamed9")
        tc("ip", "link", "set", "renamed9", "up")
        kill_with_guardians(process)
        assert restore() == [INTERFACE]
        tc("ip", "link", "set", "renamed9", "name", INTERFACE)
        assert qdisc() == free

    in_a_sandbox(check)


def test_ipv6_neighbours_are_found_though_the_queue_is_full() -> None:
    def check() -> None:
        for command in (
            "ip netns add far",
            "ip link set peer9 netns far",
            f"ip address add fd00::1/64 dev {INTERFACE} nodad",
            "ip -n far address add fd00::2/64 dev peer9 nodad",
            "ip -n far link set peer9 up",
        ):
            tc(*command.split())
        process = shape("--rate", "1 kbit/s", "--queue", "100 ms")
        # Frames of a second and more each: the queue holds two, and is never empty again.
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind((INTERFACE, 0))
            deadline_s = time.monotonic() + PATIENCE_S
            while " dropped 0," in tc("tc", "-s", "qdisc", "show", "dev", INTERFACE, "root"):
                assert time.monotonic() < deadline_s
                with contextlib.suppress(OSError):
                    raw.send(b"\xff" * 12 + b"\x88\xb5" + bytes(1400))
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as asking:
            asking.sendto(b"x", ("fd00::2", 9))

            def found() -> bool:
                shown = tc("ip", "-6", "neighbour", "show", "fd00::2", "dev", INTERFACE)
                assert "FAILED" not in shown
                return "lladdr" in shown

            wait_until(found)
        process.terminate()
        assert process.wait(timeout=PATIENCE_S) == 0

    in_a_sandbox(check)


def test_offloads_are_switched_off_and_back_to_what_they_were() -> None:
    def offloads(state: str) -> dict[str, bool]:
        output, errors = netctl("offloads", state, INTERFACE, "--json").communicate(
            timeout=PATIENCE_S
        )
        assert not errors
        found: dict[str, bool] = json.loads(output)
        return found

    def check() -> None:
        before = offloads("show")
        assert before["gso"]
        for _ in range(2):
            assert not any(offloads("off").values())
        assert offloads("restore") == before == offloads("show")
        _, errors = netctl("offloads", "restore", INTERFACE).communicate(timeout=PATIENCE_S)
        assert "nothing tells what the offloads" in errors

    in_a_sandbox(check)
