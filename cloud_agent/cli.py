"""`cloud-agent`: serve a fleet of devices and answer what is too hard for them."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from airloom.errors import AirloomError
from airloom.settings_file import load_yaml
from airloom.signals import run_until_done
from cloud_agent.agent import serve
from cloud_agent.config import CloudAgentSettings


def main() -> None:
    """Entry point of the console script."""
    parser = argparse.ArgumentParser(prog="cloud-agent", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run the agent until SIGTERM")
    run.add_argument("settings", type=Path, help="YAML file (see `cloud-agent schema`)")
    commands.add_parser("schema", help="print the settings' JSON schema")
    arguments = parser.parse_args()
    if arguments.command == "schema":
        print(json.dumps(CloudAgentSettings.model_json_schema(), indent=2))
        return
    try:
        settings = load_yaml(arguments.settings, CloudAgentSettings)
        run_until_done(lambda: serve(settings))
    except AirloomError as error:
        print(f"cloud-agent: {error}", file=sys.stderr)
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
