"""`device-agent`: run a model on this board and reach the cloud when it is not enough."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from airloom.errors import AirloomError
from airloom.settings_file import load_yaml
from airloom.signals import run_until_done
from device_agent.agent import serve
from device_agent.config import DeviceSettings
from device_agent.doctor import advise, describe, inspect_board, report


def main() -> None:
    """Entry point of the console script."""
    parser = argparse.ArgumentParser(prog="device-agent", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run the agent until SIGTERM")
    run.add_argument("settings", type=Path, help="YAML file (see `device-agent schema`)")
    commands.add_parser("schema", help="print the settings' JSON schema")
    check = commands.add_parser("doctor", help="say what this board can run, and why")
    check.add_argument("models", type=Path, nargs="+", metavar="MODEL", help="GGUF file")
    check.add_argument("--json", action="store_true", help="print it as data")
    arguments = parser.parse_args()
    if arguments.command == "schema":
        print(json.dumps(DeviceSettings.model_json_schema(), indent=2))
        return
    try:
        if arguments.command == "doctor":
            raise SystemExit(_doctor(arguments.models, as_json=arguments.json))
        settings = load_yaml(arguments.settings, DeviceSettings)
        run_until_done(lambda: serve(settings))
    except AirloomError as error:
        print(f"device-agent: {error}", file=sys.stderr)
        raise SystemExit(1) from error


def _doctor(models: list[Path], *, as_json: bool) -> int:
    board = inspect_board()
    advice = [advise(path, board) for path in models]
    if as_json:
        print(json.dumps(report(board, advice), indent=2))
    else:
        print(describe(board, advice))
    return 0 if all(one.settings is not None for one in advice) else 1


if __name__ == "__main__":
    main()
