"""Commands that find out: what this kernel can do, and what a link is."""

from __future__ import annotations

import argparse
import contextlib
import json
from dataclasses import asdict
from typing import Any

from airloom.units import parse_time_ms
from netctl.backends import BACKENDS
from netctl.backends.capabilities import probe
from netctl.cli.arguments import add_link, json_conditions, link_of, place, reading, show
from netctl.conditions.link import DirectionConditions, LinkConditions
from netctl.measure.certificate import certify
from netctl.measure.crafted import judge_crossing
from netctl.measure.crosscheck import cross_check
from netctl.measure.prober import DirectionMeasurement, Path, measure_directions

INCONCLUSIVE = 3
"""The exit status of a certificate that neither passes nor fails."""


def _probe(arguments: argparse.Namespace) -> None:
    capabilities = probe()
    backends = {b.name: b.missing(capabilities) for b in BACKENDS.values()}
    lines = [f"kernel {capabilities.kernel}"]
    for name, reason in backends.items():
        lines.append(f"  {name:17} {'works' if reason is None else 'does not work: ' + reason}")
    value = {"capabilities": capabilities.as_dict(), "backends": backends}
    show(value, "\n".join(lines), arguments)


def _directions(
    arguments: argparse.Namespace, link: LinkConditions
) -> dict[str, DirectionMeasurement]:
    device, cloud = place(arguments.device), place(arguments.cloud)
    with (
        contextlib.closing(Path(device, cloud, corrupting=link.uplink.corrupt > 0)) as up,
        contextlib.closing(Path(cloud, device, corrupting=link.downlink.corrupt > 0)) as down,
    ):
        uplink, downlink = measure_directions(
            [(up, link.uplink), (down, link.downlink)],
            probes=arguments.probes,
            patience_s=arguments.patience / 1e3,
        )
    return {"uplink": uplink, "downlink": downlink}


def _measure(arguments: argparse.Namespace) -> None:
    found = _directions(arguments, LinkConditions(arguments.uplink, arguments.downlink))
    print(json.dumps({way: asdict(one) for way, one in found.items()}), flush=True)


def _verify(arguments: argparse.Namespace) -> None:
    link = link_of(arguments)
    with contextlib.closing(Path((None, "127.0.0.1"), (None, "127.0.0.1"))) as loop:
        (bare,) = measure_directions([(loop, DirectionConditions())], probes=200)
    others = []
    ends = (place(arguments.device), place(arguments.cloud))
    if arguments.crafted:
        others += judge_crossing(link, *ends)
    if arguments.cross_check:
        others += cross_check(link, *ends)
    certificate = certify(
        link,
        _directions(arguments, link),
        backend=arguments.backend,
        baseline_ms=bare.delay_ms.value,
        others=others,
    )
    show(certificate.as_dict(), certificate.text(), arguments)
    if not certificate.passed:
        raise SystemExit(1 if certificate.outcome == "not as asked" else INCONCLUSIVE)


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add these commands to the command line."""
    command = commands.add_parser(
        "probe", help="say which backends work on this kernel, and why", parents=[common]
    )
    command.set_defaults(run=_probe)

    command = commands.add_parser(
        "verify",
        help="measure a link between two namespaces and certify that it is what was asked",
        parents=[common],
    )
    add_link(command)
    _add_ends(command, 20e3)
    command.add_argument("--backend", default="unnamed", help="what to write into the certificate")
    command.add_argument(
        "--crafted", action="store_true", help="send packets of every kind: none may be changed"
    )
    command.add_argument(
        "--cross-check", action="store_true", help="measure with iperf3 and irtt as well"
    )
    command.set_defaults(run=_verify)

    command = commands.add_parser(
        "measure", help="measure a link between two namespaces of this machine"
    )
    _add_ends(command, 0.0)
    for way in ("uplink", "downlink"):
        command.add_argument(
            f"--{way}", required=True, type=reading(json_conditions), metavar="JSON"
        )
    command.set_defaults(run=_measure)


def _add_ends(command: argparse.ArgumentParser, patience_ms: float) -> None:
    for way in ("device", "cloud"):
        command.add_argument(f"--{way}", required=True, metavar="NAMESPACE/ADDRESS")
    command.add_argument("--probes", type=int, default=1000)
    command.add_argument(
        "--patience",
        type=reading(parse_time_ms),
        default=patience_ms,
        help="send more probes for up to so long where losses need them: '20 s'",
    )
