"""What command-line arguments are read as."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from airloom.errors import ConfigurationError
from airloom.units import parse_time_ms
from netctl.backends.kernel.filters import Exemption
from netctl.conditions.link import DirectionConditions, LinkConditions
from netctl.json_data import from_json

Value = TypeVar("Value")


def reading(parse: Callable[[str], Value]) -> Callable[[str], Value]:
    """Use a parser that raises ValueError as an argument's type, so that its words are shown."""

    def read(text: str) -> Value:
        try:
            return parse(text)
        except (ValueError, ConfigurationError) as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return read


def json_conditions(text: str) -> DirectionConditions:
    """Conditions as JSON in SI units, as plans write them."""
    return from_json(DirectionConditions, text)


exemption = reading(Exemption.parse)


def time_of_day(text: str) -> float:
    """Seconds since 1970, of a number or of an ISO 8601 time with its zone."""
    try:
        return float(text)
    except ValueError:
        moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone; write for example {text}+00:00")
    return moment.timestamp()


def place(text: str) -> tuple[str | None, str]:
    """NAMESPACE/NAME, or NAME in the present namespace."""
    namespace, slash, name = text.rpartition("/")
    return (namespace if slash else None, name)


def add_link(command: argparse.ArgumentParser) -> None:
    """Let a command be told a link: by a profile's name or by a file."""
    group = command.add_mutually_exclusive_group(required=True)
    group.add_argument("--profile", help="a name of `netctl profiles`")
    group.add_argument(
        "--conditions", type=Path, metavar="FILE", help="YAML with uplink and downlink, with units"
    )


def link_of(arguments: argparse.Namespace) -> LinkConditions:
    """The link that a command was told."""
    from airloom.settings_file import load_yaml
    from netctl.conditions.profiles import profile
    from netctl.traces.course import LinkSettings

    if arguments.profile is not None:
        return profile(arguments.profile).conditions
    return load_yaml(arguments.conditions, LinkSettings).conditions()


def add_duration(command: argparse.ArgumentParser) -> None:
    """Let a command end by itself."""
    time = reading(parse_time_ms)
    command.add_argument("--for", dest="duration", type=time, help="end by itself after '30 s'")


def add_lease(command: argparse.ArgumentParser) -> None:
    """Let a command be told for how long it may be silent."""
    command.add_argument(
        "--lease",
        type=reading(parse_time_ms),
        default=10e3,
        help="restored so soon if this command hangs: '10 s'",
    )


def show(value: Any, text: str, arguments: argparse.Namespace) -> None:
    """Print for people, or as JSON where that was asked for."""
    print(json.dumps(value, indent=2) if arguments.json else text)
