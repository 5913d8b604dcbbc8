"""`netctl`: shape links, and measure that they are what was asked for."""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path as FilePath

from netctl import execute
from netctl.backends import BACKENDS
from netctl.capabilities import probe
from netctl.conditions import DirectionConditions, LinkConditions
from netctl.json_data import from_json
from netctl.kernel.filters import Exemption
from netctl.lease import restore
from netctl.linux import die_with_parent
from netctl.measure.prober import Path, measure_directions
from netctl.shape import shape
from netctl.traces.files import read_opportunities
from netctl.units import parse_fraction, parse_rate_bps, parse_time_ms
from netctl.userspace.forwarder import Forwarder, stop_on_signals
from netctl.userspace.ports import open_port
from protos.errors import AirloomError, ConfigurationError


def _conditions(text: str) -> DirectionConditions:
    """Read conditions from JSON in SI units, as plans write them."""
    try:
        return from_json(DirectionConditions, text)
    except (ConfigurationError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _quantity(parse: Callable[[str], float]) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return read


def _exemption(text: str) -> Exemption:
    try:
        return Exemption.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _place(text: str) -> tuple[str | None, str]:
    namespace, slash, address = text.rpartition("/")
    return (namespace if slash else None, address)


def _probe(arguments: argparse.Namespace) -> None:
    capabilities = probe()
    backends = {b.name: b.missing(capabilities) for b in BACKENDS.values()}
    if arguments.json:
        print(json.dumps({"capabilities": capabilities.as_dict(), "backends": backends}, indent=2))
        return
    print(f"kernel {capabilities.kernel}")
    for name, reason in backends.items():
        print(f"  {name:17} {'works' if reason is None else 'does not work: ' + reason}")


def _link(arguments: argparse.Namespace) -> None:
    die_with_parent(signal.SIGTERM)
    device = open_port(arguments.device)
    cloud = open_port(arguments.cloud)
    conditions = LinkConditions(arguments.uplink, arguments.downlink)
    forwarder = Forwarder(
        device,
        cloud,
        conditions,
        arguments.seed,
        uplink_trace=arguments.uplink_trace and read_opportunities(arguments.uplink_trace),
        downlink_trace=arguments.downlink_trace and read_opportunities(arguments.downlink_trace),
        control=arguments.control,
    )
    stop_on_signals(forwarder)
    print(json.dumps({"ready": True, "begin_s": forwarder.begin_s}), flush=True)
    forwarder.run()
    counters = {"uplink": forwarder.up.counters, "downlink": forwarder.down.counters}
    print(json.dumps({way: asdict(counter) for way, counter in counters.items()}), flush=True)


def _measure(arguments: argparse.Namespace) -> None:
    device, cloud = _place(arguments.device), _place(arguments.cloud)
    with (
        contextlib.closing(Path(device, cloud)) as up,
        contextlib.closing(Path(cloud, device)) as down,
    ):
        uplink, downlink = measure_directions(
            [(up, arguments.uplink), (down, arguments.downlink)], probes=arguments.probes
        )
    print(json.dumps({"uplink": asdict(uplink), "downlink": asdict(downlink)}), flush=True)


def _offloads(arguments: argparse.Namespace) -> None:
    execute.run(("netctl", "offloads", "off", arguments.interface))


def _tree(arguments: argparse.Namespace) -> None:
    planned = () if arguments.tree is None else (arguments.tree,)
    shown = execute.run(("netctl", "tree", arguments.action, arguments.interface, *planned))
    if shown:
        print(shown)


def _shape(arguments: argparse.Namespace) -> None:
    try:
        conditions = DirectionConditions(
            rate_bps=arguments.rate,
            delay_ms=arguments.delay,
            jitter_ms=arguments.jitter,
            loss=arguments.loss,
            queue_ms=arguments.queue,
        )
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    shape(
        arguments.interface,
        conditions,
        duration_ms=arguments.duration,
        lease_s=arguments.lease / 1e3,
        exempt=arguments.exempt,
    )


def _restore(_: argparse.Namespace) -> None:
    for interface in restore():
        print(f"restored {interface}")


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser(prog="netctl", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    command = commands.add_parser("probe", help="say which backends work on this kernel, and why")
    command.add_argument("--json", action="store_true")
    command.set_defaults(run=_probe)

    command = commands.add_parser(
        "shape", help="shape what leaves an interface until Ctrl-C, then restore it"
    )
    command.add_argument("interface")
    command.add_argument("--rate", type=_quantity(parse_rate_bps), help="for example '12 Mbit/s'")
    command.add_argument("--delay", type=_quantity(parse_time_ms), default=0.0, help="'20 ms'")
    command.add_argument("--jitter", type=_quantity(parse_time_ms), default=0.0, help="'5 ms'")
    command.add_argument("--loss", type=_quantity(parse_fraction), default=0.0, help="'1 %%'")
    command.add_argument("--queue", type=_quantity(parse_time_ms), default=200.0, help="'200 ms'")
    command.add_argument(
        "--for", dest="duration", type=_quantity(parse_time_ms), help="end by itself after '30 s'"
    )
    command.add_argument(
        "--lease",
        type=_quantity(parse_time_ms),
        default=10e3,
        help="restored so soon if this hangs",
    )
    command.add_argument(
        "--exempt",
        action="append",
        type=_exemption,
        default=[Exemption("tcp", 22)],
        metavar="tcp/PORT",
        help="a port that is never shaped, besides SSH's (repeatable)",
    )
    command.set_defaults(run=_shape)

    command = commands.add_parser("restore", help="undo what a killed `netctl shape` left behind")
    command.set_defaults(run=_restore)

    for name, run, text in (
        ("link", _link, "carry packets between two ports (used by plans)"),
        ("measure", _measure, "measure a link between two namespaces of this machine"),
    ):
        command = commands.add_parser(name, help=text)
        place = "tun:NAMESPACE/INTERFACE" if name == "link" else "NAMESPACE/ADDRESS"
        command.add_argument("--device", required=True, metavar=place)
        command.add_argument("--cloud", required=True, metavar=place)
        command.add_argument("--uplink", required=True, type=_conditions, metavar="JSON")
        command.add_argument("--downlink", required=True, type=_conditions, metavar="JSON")
        if name == "link":
            command.add_argument("--seed", type=int, default=0)
            command.add_argument("--uplink-trace", type=FilePath, help="Mahimahi's format")
            command.add_argument("--downlink-trace", type=FilePath, help="in place of a rate")
            command.add_argument("--control", type=FilePath, help="a socket to take orders at")
        else:
            command.add_argument("--probes", type=int, default=1000)
        command.set_defaults(run=run)

    command = commands.add_parser("offloads", help="switch an interface's offloads off")
    command.add_argument("state", choices=["off"])
    command.add_argument("interface", metavar="[NAMESPACE/]INTERFACE")
    command.set_defaults(run=_offloads)

    command = commands.add_parser("tree", help="what a direction is made of in the kernel (plans)")
    command.add_argument("action", choices=["install", "change", "show"])
    command.add_argument("interface", metavar="[NAMESPACE/]INTERFACE")
    command.add_argument("tree", nargs="?", metavar="JSON", help="for install and change")
    command.set_defaults(run=_tree)
    return parser


def main(argv: list[str] | None = None) -> None:
    """Entry point of the console script."""
    arguments = build_parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except AirloomError as error:
        print(f"netctl: {error}", file=sys.stderr)
        raise SystemExit(1) from error
    except PermissionError as error:
        print(f"netctl: {error}; run it as root", file=sys.stderr)
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
