"""An interface in a sandbox, and commands that shape it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from sandboxes import run_in_sandbox

from netctl.backends.capabilities import probe

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


def qdisc(kind: str = "") -> dict[str, Any]:
    """The root qdisc, or the one of a kind."""
    shown = json.loads(tc("tc", "-j", "qdisc", "show", "dev", INTERFACE))
    found: dict[str, Any] = next(
        q for q in shown if q["kind"] == kind or (not kind and "root" in q)
    )
    return found


def loss() -> float:
    """What netem loses; tc leaves it out where that is nothing."""
    found: float = qdisc("netem")["options"].get("loss-random", {}).get("loss", 0.0)
    return found


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
        time.sleep(0.1)
