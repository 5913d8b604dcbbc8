"""Commands for boards elsewhere: the daemon that a board runs, and what shapes several at once."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netctl.cli.arguments import reading
from netctl.cli.shaping import add_conditions, asked_of, timeline_of

# gRPC, asyncio and what reads YAML are loaded when used: whoever only shapes an interface starts faster.
if TYPE_CHECKING:
    from netctl.daemon.together import CommonChange, Place


def _place(text: str) -> Place:
    from netctl.daemon.together import Place

    return Place.parse(text)


def _serve(arguments: argparse.Namespace) -> None:
    # gRPC's own care for forks only writes that it cannot take any; ours execute at once.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    from airloom.settings_file import load_yaml
    from airloom.signals import run_until_done
    from netctl.daemon.server import serve
    from netctl.daemon.settings import DaemonSettings

    settings = load_yaml(arguments.config, DaemonSettings)
    run_until_done(lambda: serve(settings))


def _boards(arguments: argparse.Namespace) -> None:
    import asyncio

    from airloom.security import TransportSecurity
    from airloom.settings_file import load_yaml
    from netctl.daemon.together import shape_together

    if arguments.plaintext:
        security = TransportSecurity(plaintext=True)
    else:
        security = load_yaml(arguments.security, TransportSecurity)
    timeline, period_ms = timeline_of(arguments)

    def tell(change: CommonChange) -> None:
        late = ", ".join(f"{place} {ms:.3f} ms" for place, ms in change.late_ms.items())
        text = (
            f"changed together: skew {change.skew_ms:.3f} ms, uncertain by "
            f"{change.uncertainty_ms:.3f} ms; late by {late}"
        )
        print(json.dumps(asdict(change)) if arguments.json else text, flush=True)

    asyncio.run(
        shape_together(
            arguments.places,
            asked_of(arguments),
            security=security,
            timeline=timeline,
            period_ms=period_ms,
            duration_s=math.inf if arguments.duration is None else arguments.duration / 1e3,
            lease_s=arguments.lease / 1e3,
            exempt=[f"{one.protocol}/{one.port}" for one in arguments.exempt],
            incoming=arguments.incoming,
            on_change=tell,
        )
    )
    print("all are restored", file=sys.stderr)


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add these commands to the command line."""
    command = commands.add_parser(
        "serve", help="let a controller elsewhere shape this board's interfaces (gRPC)"
    )
    command.add_argument(
        "--config",
        type=Path,
        required=True,
        metavar="FILE",
        help="YAML with listen, security and interfaces",
    )
    command.set_defaults(run=_serve)

    command = commands.add_parser(
        "boards",
        help="shape interfaces of boards that run `netctl serve`, all at one moment",
        parents=[common],
    )
    command.add_argument("places", nargs="+", type=reading(_place), metavar="HOST:PORT/INTERFACE")
    add_conditions(command)
    command.add_argument("--incoming", action="store_true", help="what arrives instead")
    group = command.add_mutually_exclusive_group(required=True)
    group.add_argument(
        "--security", type=Path, metavar="FILE", help="YAML with ca, certificate and key"
    )
    group.add_argument("--plaintext", action="store_true", help="no TLS: anybody could do this")
    command.set_defaults(run=_boards)
