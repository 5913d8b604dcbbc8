"""`netctl`: shape links, and measure that they are what was asked for."""

from __future__ import annotations

import argparse
import sys

from airloom.errors import AirloomError
from netctl.cli import boards, describing, measuring, replaying, shaping, wifi


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser(prog="netctl", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print JSON")
    for module in (measuring, describing, shaping, replaying, boards, wifi):
        module.add_commands(commands, common)
    return parser


def main(argv: list[str] | None = None) -> None:
    """Entry point of the console script."""
    arguments = build_parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except AirloomError as error:
        print(f"netctl: {error}", file=sys.stderr)
        raise SystemExit(1) from error
    except KeyboardInterrupt:
        # Whatever was shaped has been restored on the way here.
        raise SystemExit(130) from None
    except PermissionError as error:
        print(f"netctl: {error}; run it as root", file=sys.stderr)
        raise SystemExit(1) from error
