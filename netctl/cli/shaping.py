"""Commands that change links, show what was changed and take it back."""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from airloom.errors import ConfigurationError
from airloom.units import parse_fraction, parse_rate_bps, parse_time_ms
from netctl.backends import execute
from netctl.backends.kernel import read_back
from netctl.backends.kernel.filters import Exemption
from netctl.backends.kernel.netlink import Netlink
from netctl.backends.offloads import read_offloads
from netctl.backends.userspace_link.forwarder import Forwarder, stop_on_signals
from netctl.backends.userspace_link.ports import open_port
from netctl.cli.arguments import (
    add_duration,
    add_lease,
    exemption,
    json_conditions,
    place,
    reading,
    show,
    time_of_day,
)
from netctl.conditions.classes import SharedLink
from netctl.conditions.link import DirectionConditions, LinkConditions
from netctl.interface.hold import hold
from netctl.interface.lease import leases
from netctl.interface.offloads import offloads_off, offloads_restored
from netctl.interface.restore import orphans, remove_orphans, restore
from netctl.interface.shape import shape
from netctl.linux import die_with_parent, network_namespace, network_namespace_number
from netctl.traces.files import read_opportunities


def way_of(arguments: argparse.Namespace) -> str:
    """Which direction of a profile is meant."""
    return arguments.way or "uplink"


def asked_of(arguments: argparse.Namespace) -> DirectionConditions:
    """A direction by a profile, changed by what was given besides it."""
    base = DirectionConditions()
    if arguments.profile is not None:
        from netctl.conditions.profiles import profile

        base = getattr(profile(arguments.profile).conditions, way_of(arguments))
    elif arguments.way is not None:
        raise ConfigurationError(f"--way {arguments.way} is of a profile: give --profile as well")
    given = {
        "rate_bps": arguments.rate,
        "delay_ms": arguments.delay,
        "jitter_ms": arguments.jitter,
        "queue_ms": arguments.queue,
    }
    changed = {name: value for name, value in given.items() if value is not None}
    if arguments.loss is not None:
        changed |= {"loss": arguments.loss, "loss_model": None}
    try:
        return replace(base, **changed)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error


def timeline_of(
    arguments: argparse.Namespace,
) -> tuple[list[tuple[float, DirectionConditions]], float | None]:
    """What a profile is from each time on, in its present way."""
    if arguments.profile is None:
        return [], None
    from netctl.conditions.profiles import profile

    found = profile(arguments.profile)
    return (
        [(at, getattr(link, way_of(arguments))) for at, link in found.timeline],
        found.period_ms,
    )


def _classes(file: Path | None) -> SharedLink | None:
    if file is None:
        return None
    from airloom.settings_file import load_yaml
    from netctl.conditions.settings import SharedLinkSettings

    return load_yaml(file, SharedLinkSettings).link()


def _shared(arguments: argparse.Namespace) -> SharedLink | None:
    """A direction in classes, where a file of them was given."""
    if arguments.classes is None:
        return None
    for name in ("profile", "way", "rate", "delay", "jitter", "loss", "queue"):
        if getattr(arguments, name) is not None:
            raise ConfigurationError(
                f"--classes says all of it: --{name} belongs into {arguments.classes}"
            )
    return _classes(arguments.classes)


def _shape(arguments: argparse.Namespace) -> None:
    timeline, period_ms = timeline_of(arguments)
    shape(
        arguments.interface,
        _shared(arguments) or asked_of(arguments),
        timeline=timeline,
        period_ms=period_ms,
        duration_ms=arguments.duration,
        lease_s=arguments.lease / 1e3,
        exempt=arguments.exempt,
        incoming=arguments.incoming,
        at_s=arguments.at,
    )


def _hold(arguments: argparse.Namespace) -> None:
    hold(
        arguments.interface,
        lease_s=arguments.lease / 1e3,
        exempt=arguments.exempt,
        incoming=arguments.incoming,
        orders=sys.stdin.fileno(),
        answers=sys.stdout,
    )


def _show(arguments: argparse.Namespace) -> None:
    namespace, interface = place(arguments.interface)
    with Netlink(namespace) as netlink:
        shown = read_back.read_back(netlink, interface)
        foreign = read_back.foreign_root(netlink, interface)
        index = netlink.index(interface)
    with network_namespace(namespace):
        number = network_namespace_number()
    wanted = (number, index, "leaving")
    lease = next((o for o in leases() if (o.namespace, o.index, o.kind) == wanted), None)
    value = {
        "interface": arguments.interface,
        "tree": None if shown is None else asdict(shown),
        "foreign": foreign,
        "lease": None if lease is None else {**asdict(lease), "held": lease.held},
    }
    if shown is None:
        text = f"{arguments.interface} carries nothing of netctl's"
        text += f"; somebody else's {foreign}" if foreign else ""
    else:
        text = f"{arguments.interface}: {read_back.describe(shown)}"
        if lease is not None:
            text += (
                f"\n  leased by process {lease.holder.pid}, {'held' if lease.held else 'lapsed'}"
            )
    show(value, text, arguments)


def _restore(arguments: argparse.Namespace) -> None:
    restored = restore()
    lines = [f"restored {interface}" for interface in restored]
    found = remove_orphans() if arguments.orphans else orphans()
    removed = "removed" if arguments.orphans else "left alone (--orphans removes it)"
    lines += [
        f"{one.interface}: {one.what} of netctl's that nobody holds: {removed}" for one in found
    ]
    value = {"restored": restored, "orphans": [asdict(one) for one in found]}
    show(value, "\n".join(lines), arguments)


def _link(arguments: argparse.Namespace) -> None:
    die_with_parent(signal.SIGTERM)
    device = open_port(arguments.device)
    cloud = open_port(arguments.cloud)
    traces = [
        None if path is None else read_opportunities(path)
        for path in (arguments.uplink_trace, arguments.downlink_trace)
    ]
    forwarder = Forwarder(
        device,
        cloud,
        LinkConditions(arguments.uplink, arguments.downlink),
        arguments.seed,
        uplink_trace=traces[0],
        downlink_trace=traces[1],
        uplink_classes=_classes(arguments.uplink_classes),
        downlink_classes=_classes(arguments.downlink_classes),
        control=arguments.control,
    )
    stop_on_signals(forwarder)
    print(json.dumps({"ready": True, "begin_s": forwarder.begin_s}), flush=True)
    forwarder.run()
    counters = {"uplink": forwarder.up.counters, "downlink": forwarder.down.counters}
    # Whoever started this may have gone.
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps({way: asdict(one) for way, one in counters.items()}), flush=True)


def _offloads(arguments: argparse.Namespace) -> None:
    namespace, interface = place(arguments.interface)
    if arguments.state == "off":
        offloads_off(interface, namespace)
    found = read_offloads(interface, namespace)
    if arguments.state == "restore":
        found = offloads_restored(interface, namespace)
    lines = [f"{name}: {'on' if on else 'off'}" for name, on in found.items()]
    show(found, "\n".join(lines), arguments)


def _order(arguments: argparse.Namespace) -> None:
    execute.run(("netctl", "order", str(arguments.control), arguments.conditions))


def _tree(arguments: argparse.Namespace) -> None:
    planned = () if arguments.tree is None else (arguments.tree,)
    shown = execute.run(("netctl", "tree", arguments.action, arguments.interface, *planned))
    sys.stdout.write(f"{shown}\n" if shown else "")


def add_conditions(command: argparse.ArgumentParser) -> None:
    """Let a command be told conditions, how long they last, and how they are held."""
    time = reading(parse_time_ms)
    command.add_argument("--profile", help="start from one of `netctl profiles`")
    command.add_argument(
        "--way", choices=["uplink", "downlink"], help="of the profile; uplink where not given"
    )
    command.add_argument("--rate", type=reading(parse_rate_bps), help="for example '12 Mbit/s'")
    command.add_argument("--delay", type=time, help="'20 ms'")
    command.add_argument("--jitter", type=time, help="'5 ms'")
    command.add_argument("--loss", type=reading(parse_fraction), help="'1 %%'")
    command.add_argument("--queue", type=time, help="how long a full queue drains: '200 ms'")
    add_duration(command)
    _add_holding(command)


def _add_holding(command: argparse.ArgumentParser) -> None:
    add_lease(command)
    command.add_argument(
        "--exempt",
        action="append",
        type=exemption,
        default=[Exemption("tcp", 22)],
        metavar="tcp/PORT",
        help="a port that is never shaped, besides SSH's (repeatable)",
    )


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add these commands to the command line."""
    command = commands.add_parser(
        "shape",
        aliases=["apply"],
        help="shape what leaves an interface until Ctrl-C, then restore it",
    )
    command.add_argument("interface")
    add_conditions(command)
    command.add_argument(
        "--classes",
        type=Path,
        metavar="FILE",
        help="YAML with a shared rate and conditions by address, port or mark, in place of the above",
    )
    command.add_argument(
        "--incoming", action="store_true", help="shape what arrives instead, through an ifb"
    )
    command.add_argument(
        "--at",
        type=reading(time_of_day),
        help="begin at a time, as other boards do: 2026-11-21T17:00:00+00:00, or seconds since 1970",
    )
    command.set_defaults(run=_shape)

    command = commands.add_parser(
        "hold",
        help="hold an interface for a controller that sends conditions as JSON lines",
    )
    command.add_argument("interface")
    _add_holding(command)
    command.add_argument("--incoming", action="store_true", help="what arrives instead")
    command.set_defaults(run=_hold)

    command = commands.add_parser(
        "show", help="what netctl has put on an interface", parents=[common]
    )
    command.add_argument("interface", metavar="[NAMESPACE/]INTERFACE")
    command.set_defaults(run=_show)

    command = commands.add_parser(
        "restore", help="undo what a killed netctl left behind", parents=[common]
    )
    command.add_argument(
        "--orphans",
        action="store_true",
        help="also remove what netctl made in this network namespace and no lease tells of",
    )
    command.set_defaults(run=_restore)

    command = commands.add_parser("link", help="carry packets between two ports (used by plans)")
    for way in ("device", "cloud"):
        command.add_argument(f"--{way}", required=True, metavar="tun:NAMESPACE/INTERFACE")
    for way in ("uplink", "downlink"):
        command.add_argument(
            f"--{way}",
            type=reading(json_conditions),
            default=DirectionConditions(),
            metavar="JSON",
        )
        command.add_argument(f"--{way}-trace", type=Path, help="Mahimahi's format, for the rate")
        command.add_argument(f"--{way}-classes", type=Path, help="YAML as for `netctl shape`")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--control", type=Path, help="a socket to take orders at")
    command.set_defaults(run=_link)

    command = commands.add_parser("order", help="change a link process's conditions (plans)")
    command.add_argument("control", type=Path, help="the socket it was given")
    command.add_argument("conditions", metavar="JSON", help="of uplink, downlink or both")
    command.set_defaults(run=_order)

    command = commands.add_parser(
        "offloads",
        help="switch an interface's offloads off, restore what they were, or show them",
        parents=[common],
    )
    command.add_argument("state", choices=["off", "restore", "show"])
    command.add_argument("interface", metavar="[NAMESPACE/]INTERFACE")
    command.set_defaults(run=_offloads)

    command = commands.add_parser("tree", help="what a direction is made of in the kernel (plans)")
    command.add_argument("action", choices=["install", "change", "show"])
    command.add_argument("interface", metavar="[NAMESPACE/]INTERFACE")
    command.add_argument("tree", nargs="?", metavar="JSON", help="for install and change")
    command.set_defaults(run=_tree)
