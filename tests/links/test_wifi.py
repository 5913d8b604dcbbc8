"""A Wi-Fi radio tells its state and is limited through nl80211; whatever ends, it is restored.

On mac80211_hwsim, the kernel's own radios made of software; tests/netem runs these on a kernel that has
them.
"""

from __future__ import annotations

import json
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from shaping import PATIENCE_S, netctl, tc, wait_until

from airloom.errors import LinkError
from netctl.backends.kernel.generic_netlink import GenericNetlink
from netctl.backends.kernel.netlink import attribute
from netctl.interface.wifi import RadioLimits, WiFi

RADIOS = sorted(path.name for path in Path("/sys/class/mac80211_hwsim").glob("hwsim*/net/*"))
with_radios = pytest.mark.skipif(
    len(RADIOS) < 2, reason="tests/netem runs it where mac80211_hwsim is"
)
_SET_INTERFACE, _JOIN_IBSS, _LEAVE_IBSS = 6, 43, 44
_AD_HOC, _STATION, _MONITOR = 1, 2, 6
_SSID, _FREQUENCY, _FREQUENCY_FIXED, _BSSID = 52, 38, 60, 6
FRAME_BYTES = 500


def number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def order(command: int, interface: str, *parts: bytes) -> None:
    with GenericNetlink("nl80211") as nl80211:
        nl80211.request(command, number(3, socket.if_nametoindex(interface)) + b"".join(parts))


def become(interface: str, kind: int) -> None:
    tc("ip", "link", "set", interface, "down")
    order(_SET_INTERFACE, interface, number(5, kind))
    tc("ip", "link", "set", interface, "up")


@pytest.fixture
def pair() -> Iterator[tuple[str, str]]:
    """Two radios in one ad hoc network, which hear each other."""
    one, other = RADIOS[:2]
    for interface in (one, other):
        become(interface, _AD_HOC)
        order(
            _JOIN_IBSS,
            interface,
            attribute(_SSID, b"bench"),
            number(_FREQUENCY, 2412),
            attribute(_FREQUENCY_FIXED, b""),
            attribute(_BSSID, bytes.fromhex("021122334455")),
        )

    def heard() -> bool:
        send(one, other, 1)
        send(other, one, 1)
        with WiFi() as wifi:
            return all(wifi.read(interface).peers for interface in (one, other))

    wait_until(heard)
    yield one, other
    for interface in (one, other):
        order(_LEAVE_IBSS, interface)
        become(interface, _STATION)
        tc("ip", "link", "set", interface, "down")


def send(source: str, target: str, frames: int) -> None:
    address = bytes.fromhex(Path(f"/sys/class/net/{target}/address").read_text().replace(":", ""))
    own = bytes.fromhex(Path(f"/sys/class/net/{source}/address").read_text().replace(":", ""))
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind((source, 0))
        for _ in range(frames):
            # A protocol that nobody answers.
            sender.send(address + own + b"\x88\xb5" + bytes(FRAME_BYTES))


def limited(interface: str, *limits: str) -> subprocess.Popen[str]:
    process = netctl("wifi", interface, *limits)
    assert process.stderr is not None
    assert "is limited" in (line := process.stderr.readline()), line
    return process


def shown(interface: str) -> dict[str, object]:
    output, errors = netctl("wifi", interface, "--json").communicate(timeout=PATIENCE_S)
    assert not errors
    found: dict[str, object] = json.loads(output)
    return found


@with_radios
def test_netem_kernels_radio_tells_signal_rates_and_retries(pair: tuple[str, str]) -> None:
    one, other = pair
    send(one, other, 200)
    found = shown(one)
    assert (found["kind"], found["frequency_mhz"], found["width_mhz"]) == ("ad hoc", 2412, 20)
    (peer,) = found["peers"]  # type: ignore[misc]
    assert peer["address"] == Path(f"/sys/class/net/{other}/address").read_text().strip()
    assert -100 < peer["signal_dbm"] < 0
    assert peer["tx_packets"] >= 200
    assert peer["tx_retries"] is not None
    assert peer["tx_rate_bps"] >= 1_000_000


@with_radios
@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
def test_netem_kernels_radio_sends_weaker_and_slower_until_the_end(
    pair: tuple[str, str], ending: signal.Signals
) -> None:
    one, other = pair
    with WiFi() as wifi:
        before = wifi.read(one).tx_power_dbm
        send(one, other, 50)
        (loud,) = wifi.read(other).peers
        process = limited(one, "--tx-power", "5 dBm", "--rate", "2 Mbit/s", "--lease", "5 s")
        assert wifi.read(one).tx_power_dbm == 5
        send(one, other, 50)
        (peer,) = wifi.read(one).peers
        assert peer.tx_rate_bps == 2_000_000
        (quiet,) = wifi.read(other).peers
        assert quiet.signal_dbm is not None
        assert loud.signal_dbm is not None
        assert before is not None
        assert loud.signal_dbm - quiet.signal_dbm == before - 5
        process.send_signal(ending)
        process.wait(timeout=PATIENCE_S)
        wait_until(lambda: wifi.read(one).tx_power_dbm == before)


@with_radios
def test_netem_kernels_radio_is_tuned_where_its_kind_can_be(pair: tuple[str, str]) -> None:
    one, other = pair
    with WiFi() as wifi:
        with pytest.raises(LinkError, match=f"{one} cannot be tuned to 2437 MHz: nl80211"):
            wifi.limit(one, RadioLimits(frequency_mhz=2437))
        with pytest.raises(LinkError, match="one of its network's basic rates must be"):
            wifi.limit(one, RadioLimits(rates_bps=(6_000_000,)))
        order(_LEAVE_IBSS, other)
        become(other, _MONITOR)
        wifi.limit(other, RadioLimits(frequency_mhz=2437))
        assert wifi.read(other).frequency_mhz == 2437
        wifi.restore(other, RadioLimits(frequency_mhz=2412), RadioLimits(frequency_mhz=2437))
        assert wifi.read(other).frequency_mhz == 2412
        # As the fixture leaves it.
        become(other, _AD_HOC)
        order(_JOIN_IBSS, other, attribute(_SSID, b"end"), number(_FREQUENCY, 2412))


def test_what_is_no_radio_is_refused_with_the_reason() -> None:
    for arguments, words in (
        (("lo",), ("no nl80211", "lo is no Wi-Fi interface")),
        (("lo", "--tx-power", "5"), ("has no unit", "number with a unit")),
        (("lo", "--rate", "7 kbit/s"), ("rates like 6 Mbit/s",)),
        (("lo", "--mcs", "a-b"), ("neither an MCS nor a range",)),
    ):
        process = netctl("wifi", *arguments)
        _, errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode != 0
        assert any(one in errors for one in words), errors
