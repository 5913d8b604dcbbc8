"""The command for Wi-Fi radios: what they say, and limits on them."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from airloom.errors import ConfigurationError
from airloom.units import format_rate, parse_dbm, parse_frequency_mhz, parse_rate_bps
from netctl.cli.arguments import add_duration, add_lease, reading, show
from netctl.interface.limit import limit
from netctl.interface.wifi import Peer, Radio, RadioLimits, WiFi


def _mcs(text: str) -> tuple[int, ...]:
    first, dash, last = text.partition("-")
    if not first.isdecimal() or (dash and not last.isdecimal()):
        raise ValueError(f"{text!r} is neither an MCS nor a range of them (0-3)")
    return tuple(range(int(first), int(last or first) + 1))


def _told(value: float | None, unit: str) -> str:
    return "not told" if value is None else f"{value:g} {unit}"


def _rate(rate_bps: int | None) -> str:
    return "not told" if rate_bps is None else format_rate(rate_bps)


def _written(radio: Radio) -> str:
    lines = [
        f"{radio.interface}: {radio.kind}, {_told(radio.frequency_mhz, 'MHz')}, "
        f"width {_told(radio.width_mhz, 'MHz')}, sends with {_told(radio.tx_power_dbm, 'dBm')}, "
        f"noise {_told(radio.noise_dbm, 'dBm')}"
    ]
    return "\n".join([*lines, *(f"  {_written_peer(peer)}" for peer in radio.peers)])


def _written_peer(peer: Peer) -> str:
    return (
        f"{peer.address}: signal {_told(peer.signal_dbm, 'dBm')}, to it {_rate(peer.tx_rate_bps)}, "
        f"from it {_rate(peer.rx_rate_bps)}; {peer.tx_packets} packets sent, "
        f"{peer.tx_retries} retries, {peer.tx_failed} failed"
    )


def _wifi(arguments: argparse.Namespace) -> None:
    try:
        limits = RadioLimits(
            arguments.frequency,
            arguments.tx_power,
            tuple(arguments.rates),
            tuple(one for each in arguments.mcs for one in each),
        )
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    if limits == RadioLimits():
        with WiFi() as wifi:
            radio = wifi.read(arguments.interface)
        show(asdict(radio), _written(radio), arguments)
        return
    limit(
        arguments.interface,
        limits,
        duration_ms=arguments.duration,
        lease_s=arguments.lease / 1e3,
    )


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add this command to the command line."""
    command = commands.add_parser(
        "wifi",
        help="what a Wi-Fi radio says of its link; with limits, set them until Ctrl-C",
        parents=[common],
    )
    command.add_argument("interface")
    command.add_argument(
        "--frequency", type=reading(parse_frequency_mhz), help="the channel's: '2437 MHz'"
    )
    command.add_argument("--tx-power", type=reading(parse_dbm), help="'5 dBm'")
    command.add_argument(
        "--rate",
        dest="rates",
        action="append",
        type=reading(parse_rate_bps),
        default=[],
        help="use this 802.11a/b/g rate, and no others but those named (repeatable)",
    )
    command.add_argument(
        "--mcs",
        action="append",
        type=reading(_mcs),
        default=[],
        help="use this 802.11n MCS, or range 0-3, and no others but those named (repeatable)",
    )
    add_duration(command)
    add_lease(command)
    command.set_defaults(run=_wifi)
