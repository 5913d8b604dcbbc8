"""Boards are shaped from elsewhere, at one moment, and are restored whatever ends.

Two daemons in one sandbox stand for two boards. Only rates are shaped: that needs no netem.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from shaping import (
    INTERFACE,
    PATIENCE_S,
    in_a_sandbox,
    netctl,
    qdisc,
    tc,
    wait_until,
)

from airloom.errors import ConfigurationError, LinkError, UnreachableError
from airloom.security import TransportSecurity
from netctl.backends.kernel import read_back
from netctl.backends.kernel.netlink import Netlink
from netctl.conditions.link import DirectionConditions
from netctl.daemon.client import Board

PLAINTEXT = TransportSecurity(plaintext=True)
PORTS = {INTERFACE: 50071, "wlan8": 50072}


@contextlib.contextmanager
def daemons(interfaces: Sequence[str] = tuple(PORTS)) -> Iterator[list[subprocess.Popen[str]]]:
    tc("ip", "link", "set", "lo", "up")
    if "wlan8" in interfaces:
        tc("ip", "link", "add", "wlan8", "type", "veth", "peer", "name", "peer8")
        tc("ip", "link", "set", "wlan8", "up")
    processes = []
    with tempfile.TemporaryDirectory() as folder:
        for name in interfaces:
            config = Path(folder) / f"{name}.yaml"
            config.write_text(
                f"listen: 127.0.0.1:{PORTS[name]}\nsecurity: {{plaintext: true, trust_names: true}}\n"
                f"interfaces: [{name}]\n"
            )
            process = netctl("serve", "--config", str(config))
            assert process.stderr is not None
            assert "listening" in (line := process.stderr.readline()), line
            processes.append(process)
        try:
            yield processes
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(timeout=PATIENCE_S)


def rate_bps(interface: str) -> float | None:
    """What the meter lets through; None where there is none."""
    with Netlink() as netlink:
        shown = read_back.read_back(netlink, interface)
    return None if shown is None or shown.rate is None else 8 * shown.rate.rate_bytes_per_s


def test_boards_change_at_one_moment_and_say_how_late_they_were() -> None:
    def check() -> None:
        with daemons():
            places = [f"127.0.0.1:{port}/{name}" for name, port in PORTS.items()]
            process = netctl("boards", *places, "--rate", "3 Mbit/s", "--plaintext", "--json")
            assert process.stdout is not None
            change = json.loads(process.stdout.readline())
            assert set(change["late_ms"]) == set(places)
            assert all(ms >= 0 for ms in change["late_ms"].values())
            assert 0 <= change["skew_ms"] <= max(change["late_ms"].values())
            assert change["uncertainty_ms"] > 0
            assert [rate_bps(name) for name in PORTS] == [3e6, 3e6]
            # The daemons' own ports are never shaped: one could not be told to stop.
            filters = tc("tc", "filter", "show", "dev", "wlan8", "parent", "a1f3:")
            assert f"{PORTS['wlan8']:08x}/0000ffff" in filters
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=PATIENCE_S) == 130
            assert [rate_bps(name) for name in PORTS] == [None, None]

    in_a_sandbox(check)


@pytest.mark.parametrize("victim", ["controller", "daemon", "holder", "all three", "guardians too"])
def test_boards_are_restored_whoever_is_killed(victim: str) -> None:
    def check() -> None:
        before = qdisc()
        with daemons([INTERFACE]) as (daemon,):
            place = f"127.0.0.1:{PORTS[INTERFACE]}/{INTERFACE}"
            controller = netctl("boards", place, "--rate", "3 Mbit/s", "--plaintext")
            wait_until(lambda: rate_bps(INTERFACE) == 3e6)
            (holder,) = [
                one for one in psutil.Process(daemon.pid).children() if "hold" in one.cmdline()
            ]
            if victim == "guardians too":
                # The daemon is the last guardian.
                for process in (*holder.children(), holder):
                    process.kill()
            victims = {"controller": controller, "daemon": daemon, "holder": holder}
            for name, one in victims.items():
                if victim in (name, "all three"):
                    one.kill()
            wait_until(lambda: qdisc() == before)
            if victim in ("daemon", "holder", "guardians too"):
                assert controller.wait(timeout=PATIENCE_S) == 1

    in_a_sandbox(check)


async def converse() -> None:
    async with Board(f"127.0.0.1:{PORTS[INTERFACE]}", PLAINTEXT) as board:
        described = await board.describe()
        assert list(described.interfaces) == [INTERFACE]
        assert "htb" not in described.missing
        with pytest.raises(LinkError, match=f"'lo' may not be held here; {INTERFACE} may"):
            async with board.hold("lo"):
                pass
        async with board.hold(INTERFACE, lease_s=8) as held:
            assert (await held.change(DirectionConditions(rate_bps=2_000_000))).differences == ()
            shown = await board.show(INTERFACE)
            assert shown.held
            assert "rate_bytes_per_s 250000" in shown.tree
            with pytest.raises(ConfigurationError, match="beyond the lease of 8 s"):
                await held.change(DirectionConditions(), at_s=time.time() + 60)
            with pytest.raises(ConfigurationError, match=r"jitter_correlation|correlate"):
                wrong = DirectionConditions(jitter_correlation=0.5)
                await held.change(wrong)
            # The lease is renewed while nothing changes, and another cannot have it.
            with pytest.raises(LinkError, match="is being shaped by another"):
                async with board.hold(INTERFACE):
                    pass
            await asyncio.sleep(10)
            assert (await held.change(DirectionConditions(rate_bps=4_000_000))).differences == ()
            assert rate_bps(INTERFACE) == 4e6
        assert rate_bps(INTERFACE) is None


def test_boards_tell_what_is_wrong_and_go_on() -> None:
    def check() -> None:
        with daemons([INTERFACE]):
            # In a process of its own: gRPC cannot be used in a fork of one that has used it.
            subprocess.run([sys.executable, __file__], timeout=PATIENCE_S, check=True)

    in_a_sandbox(check)


def test_a_board_that_does_not_answer_is_named() -> None:
    async def ask() -> None:
        async with Board("127.0.0.1:1", PLAINTEXT) as board:
            with pytest.raises(UnreachableError, match=r"the board 127\.0\.0\.1:1 does not answer"):
                await board.clock_offset()

    asyncio.run(ask())


if __name__ == "__main__":
    asyncio.run(converse())
