"""`netctl shape` on an interface that somebody needs: it is restored, whatever happens.

Every test runs in a sandbox with an interface of its own. tests/netem runs those that need netem
on a kernel that has it.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from netctl.capabilities import probe
from testbed.sandbox import run_in_sandbox

INTERFACE = "wlan9"
NETEM = probe().netem
PATIENCE_S = 120.0
"""How long a command may take: in the user-mode kernel even Python's start is slow."""
with_netem = pytest.mark.skipif(NETEM is not None, reason="tests/netem runs it where netem is")


def in_a_sandbox(check: Callable[[], None]) -> None:
    def body() -> int:
        tc("ip", "link", "add", INTERFACE, "type", "veth", "peer", "name", "peer9")
        tc("ip", "link", "set", INTERFACE, "up")
        check()
        return 0

    assert run_in_sandbox(body) == 0, "the check failed in the sandbox; see its output"


def tc(*command: str) -> str:
    return subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=PATIENCE_S
    ).stdout


def qdisc() -> dict[str, Any]:
    shown = json.loads(tc("tc", "-j", "qdisc", "show", "dev", INTERFACE, "root"))
    root: dict[str, Any] = shown[0]
    return root


def netctl(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "netctl.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def shape(*conditions: str) -> subprocess.Popen[str]:
    """Start `netctl shape` and wait until the interface is shaped."""
    process = netctl("shape", INTERFACE, *conditions)
    assert process.stderr is not None
    line = process.stderr.readline()
    assert "is shaped" in line, line
    return process


def wait_until(true: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


@with_netem
def test_netem_shapes_until_told_to_stop() -> None:
    def check() -> None:
        before = qdisc()
        process = shape(
            "--rate", "12 Mbit/s", "--delay", "20 ms", "--jitter", "2 ms", "--loss", "1 %"
        )
        shaped = qdisc()
        assert shaped["kind"] == "netem"
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
def test_netem_left_by_killing_everything_is_undone_by_restore() -> None:
    def check() -> None:
        before = qdisc()
        process = shape("--delay", "5 ms")
        for guardian in psutil.Process(process.pid).children():
            guardian.kill()
        process.kill()
        process.wait()
        assert qdisc()["kind"] == "netem"
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
        assert qdisc()["options"]["delay"]["delay"] == pytest.approx(0.005)
        first.terminate()
        assert first.wait(timeout=PATIENCE_S) == 0

    in_a_sandbox(check)


@pytest.mark.skipif(NETEM is None, reason="this kernel has netem: shaping works here")
def test_without_the_qdisc_shaping_is_refused_with_the_reason() -> None:
    def check() -> None:
        before = qdisc()
        process = netctl("shape", INTERFACE, "--delay", "5 ms")
        _, errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 1
        assert "which this kernel lacks" in errors
        assert errors.count("\n") == 1
        assert qdisc() == before

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
