"""The same link measured by other people's tools: iperf3's rate, irtt's one-way delay and loss."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airloom.errors import LinkError
from netctl.conditions.link import FRAME_HEADER_BYTES, DirectionConditions, LinkConditions
from netctl.linux import network_namespace
from netctl.measure.certificate import Verdict, delay_verdict, loss_verdict, plainly, rate_agrees
from netctl.measure.prober import End
from netctl.measure.statistics import Estimate, wilson

_IPERF3_PORT, _IRTT_PORT = 5261, 2162
_PAYLOAD_BYTES = 1400
_HEADERS_BYTES = 28 + FRAME_HEADER_BYTES
_LISTENING = "0A"
_IRTT_TRIES = 6
_PATIENCE_S = 10.0
_OVERLOAD = 1.25
"""Offered, of the rate asked: the rate must be what limits."""
_SECONDS, _INTERVAL_S = 5, 0.5
_PINGS, _BARE_PINGS, _PING_BYTES = 400, 200, 100
_LARGEST_RATE_BPS = 500e6
"""Beyond, iperf3 would measure this machine."""


def cross_check(link: LinkConditions, device: End, cloud: End) -> list[Verdict]:
    """Judge a link by iperf3 and irtt, by the certificate's bands.

    Raises:
        LinkError: one of them is missing or failed.
    """
    verdicts = []
    ways = (("uplink", link.uplink, device, cloud), ("downlink", link.downlink, cloud, device))
    for way, conditions, sender, receiver in ways:
        rate_bps = conditions.rate_bps
        if conditions.up and rate_bps is not None and rate_bps <= _LARGEST_RATE_BPS:
            found = _iperf3_rate_bps(sender, receiver, conditions)
            verdicts.append(
                Verdict(
                    way, "rate (iperf3)", "bit/s", rate_bps, found, None, None, "±2%",
                    plainly(rate_agrees(rate_bps, found)),
                )
            )  # fmt: skip
    if link.uplink.up and link.downlink.up:
        verdicts += _by_irtt(link, device, cloud)
    return verdicts


def _iperf3_rate_bps(sender: End, receiver: End, conditions: DirectionConditions) -> float:
    port = str(_IPERF3_PORT)
    # What is lost before the rate does not fill it.
    offered = round((conditions.rate_bps or 0) * _OVERLOAD / max(0.1, 1 - conditions.loss))
    server = ("iperf3", "-s", "-1", "-J", "-p", port, "-i", str(_INTERVAL_S), "-B", receiver[1])
    with _running(receiver, server) as process:
        _until_it_listens(process)
        _run(
            sender,
            "iperf3", "-c", receiver[1], "-p", port, "-u", "-b", str(offered),
            "-l", str(_PAYLOAD_BYTES), "-t", str(_SECONDS), "-J",
        )  # fmt: skip
        output, _ = process.communicate(timeout=_SECONDS + 10)
    rates = [one["sum"]["bits_per_second"] for one in json.loads(output)["intervals"]]
    if len(rates) < 4:
        raise LinkError(f"iperf3 told {len(rates)} intervals only")
    # Neither the first, which the delay cuts, nor the last, which the end does.
    payload_bps = statistics.median(rates[1:-1])
    return float(payload_bps * (_PAYLOAD_BYTES + _HEADERS_BYTES) / _PAYLOAD_BYTES)


@dataclass(frozen=True, slots=True)
class _Pings:
    """What irtt says of its pings, one way and the other."""

    delays_ms: dict[str, list[float]]
    """By `send` and `receive`: of those that came back."""
    sent: int
    there: int
    back: int

    def delay_ms(self, name: str, *, symmetric: bool) -> float:
        """The median where delays are symmetric, else the mean."""
        delays = self.delays_ms[name]
        if not delays:
            raise LinkError(f"irtt heard none of {self.sent} pings: it tells no delay")
        return statistics.median(delays) if symmetric else statistics.fmean(delays)


def _irtt(device: End, cloud: End, interval_ms: float, count: int) -> _Pings:
    """Ping so often; LinkError where irtt ends at once each time.

    It does so where its handshake is copied on the way.
    """
    for _ in range(_IRTT_TRIES):
        told = _irtt_once(device, cloud, interval_ms, count)
        if told.sent > count / 2:
            return told
    raise LinkError(f"irtt ended after {told.sent} of {count} pings, {_IRTT_TRIES} times")


def _irtt_once(device: End, cloud: End, interval_ms: float, count: int) -> _Pings:
    address = f"{cloud[1]}:{_IRTT_PORT}"
    with _running(cloud, ("irtt", "server", "-b", address)) as server:
        assert server.stdout is not None
        while "starting IPv4 listener" not in (line := server.stdout.readline()):
            if not line:
                raise LinkError(f"irtt's server ended at once at {address}")
        output = _run(
            device,
            "irtt", "client", "-Q", "-i", f"{interval_ms:.3f}ms",
            "-d", f"{interval_ms * count:.0f}ms", "-l", str(_PING_BYTES), "-o", "-", address,
        )  # fmt: skip
    told = json.loads(output)
    # Of each ping: irtt's own summary leaves medians out at times.
    delays = [one["delay"] for one in told["round_trips"] if one["lost"] == "false"]
    stats = told["stats"]
    return _Pings(
        {name: [one[name] / 1e6 for one in delays] for name in ("send", "receive")},
        int(stats["packets_sent"]),
        int(stats["server_packets_received"]),
        int(stats["packets_received"]),
    )


def _by_irtt(link: LinkConditions, device: End, cloud: End) -> list[Verdict]:
    # Pings must not load the link: at most a tenth of its rate.
    longest_ms = max(link.uplink.transmission_ms(128), link.downlink.transmission_ms(128))
    here = (None, "127.0.0.1")
    bare = _irtt(here, here, 10.0, _BARE_PINGS)
    told = _irtt(device, cloud, max(10.0, 10 * longest_ms), _PINGS)
    verdicts = []
    for way, conditions, name, offered, came in (
        ("uplink", link.uplink, "send", told.sent, told.there),
        ("downlink", link.downlink, "receive", told.there, told.back),
    ):
        # irtt stamps where it runs, not where packets pass: what that takes is measured without a link.
        own_ms = bare.delay_ms(name, symmetric=True)
        # And a ping takes its time at the rate.
        own_ms += conditions.transmission_ms(_PING_BYTES + 28)
        found_ms = told.delay_ms(name, symmetric=conditions.delay_is_symmetric) - own_ms
        lost = wilson(max(0, offered - came), offered)
        verdicts += [
            delay_verdict(
                way, "delay (irtt)", conditions, Estimate(found_ms, found_ms, found_ms, _PINGS)
            ),
            loss_verdict(way, "loss (irtt)", conditions, lost),
        ]
    return verdicts


@contextmanager
def _running(end: End, command: tuple[str, ...]) -> Iterator[subprocess.Popen[str]]:
    """A server in a namespace until the block ends."""
    _require(command[0])
    with network_namespace(end[0]):
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _until_it_listens(process: subprocess.Popen[str]) -> None:
    """Wait for a server that does not say when it is ready."""
    deadline_s = time.monotonic() + _PATIENCE_S
    while process.poll() is None and time.monotonic() < deadline_s:
        # Of its own namespace; psutil would look into ours.
        sockets = Path(f"/proc/{process.pid}/net/tcp").read_text(encoding="ascii").splitlines()
        if any(f":{_IPERF3_PORT:04X}" in one and f" {_LISTENING} " in one for one in sockets):
            return
        time.sleep(0.02)
    raise LinkError("iperf3's server does not listen")


def _run(end: End, *command: str) -> str:
    _require(command[0])
    with network_namespace(end[0]):
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    output, errors = process.communicate()
    if process.returncode != 0:
        words = errors.strip() or _error_of(output)
        raise LinkError(f"`{' '.join(command)}` failed: {words}")
    return output


def _error_of(output: str) -> str:
    try:
        found: dict[str, Any] = json.loads(output)
    except ValueError:
        return output.strip()
    return str(found.get("error", "it gave no reason"))


def _require(program: str) -> None:
    if shutil.which(program) is None:
        raise LinkError(f"the program {program} is missing (Debian: {program})")
