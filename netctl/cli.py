"""`netctl`: shape links, and measure that they are what was asked for."""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict

from netctl.backends import BACKENDS
from netctl.capabilities import probe
from netctl.conditions import DirectionConditions, LinkConditions
from netctl.linux import die_with_parent
from netctl.measure.prober import Path, measure_directions
from netctl.offloads import switch_off
from netctl.shape import restore, shape
from netctl.units import parse_fraction, parse_rate_bps, parse_time_ms
from netctl.userspace.forwarder import Forwarder, stop_on_signals
from netctl.userspace.ports import open_port
from protos.errors import AirloomError, ConfigurationError


def _conditions(text: str) -> DirectionConditions:
    """Read conditions from JSON in SI units, as plans write them."""
    try:
        return DirectionConditions(**json.loads(text))
    except (TypeError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _quantity(parse: Callable[[str], float]) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return read


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
    forwarder = Forwarder(device, cloud, conditions, arguments.seed)
    stop_on_signals(forwarder)
    print("ready", flush=True)
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
    namespace, interface = _place(arguments.interface)
    switch_off(interface, namespace)


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
    shape(arguments.interface, conditions, arguments.duration)


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
        else:
            command.add_argument("--probes", type=int, default=1000)
        command.set_defaults(run=run)

    command = commands.add_parser("offloads", help="switch an interface's offloads off")
    command.add_argument("state", choices=["off"])
    command.add_argument("interface", metavar="[NAMESPACE/]INTERFACE")
    command.set_defaults(run=_offloads)
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
