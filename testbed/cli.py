"""`testbed`: run scenarios on real links and report what happened."""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from airloom.errors import AirloomError, ConfigurationError
from airloom.identity import Role
from airloom.settings_file import load_yaml
from netctl.backends import choose
from netctl.backends.capabilities import probe
from testbed.certificates import DAYS, MOST_DAYS, issue, make_authority, make_curve_keys
from testbed.report.page import write_report
from testbed.runner.plan import RunPlan, describe, plan_run, predicted_ask_ms
from testbed.runner.progress import ConsoleProgress
from testbed.runner.resolved import write_resolved
from testbed.runner.run import run_plan
from testbed.sandbox import run_in_sandbox
from testbed.scenario import Scenario


def _load(path: Path) -> Scenario:
    """Load a scenario and see that the files it names are there."""
    scenario = load_yaml(path, Scenario)
    named = [("cloud.model.path", scenario.cloud.model.path)]
    named += [(f"devices.{d.name}.model.path", d.model.path) for d in scenario.devices]
    for field, model in named:
        if not model.is_file():
            raise ConfigurationError(
                f"there is no model file {model} (`make models` makes the shipped ones)",
                source=path,
                field=field,
            )
    return scenario


def _plan(path: Path) -> RunPlan:
    scenario = _load(path)
    return plan_run(scenario, choose(scenario.backend, probe()))


def _console() -> Console:
    """A console for people; in a file or a pipe as wide as the tables need."""
    console = Console(soft_wrap=True)
    return console if console.is_terminal else Console(soft_wrap=True, width=100)


def _run(arguments: argparse.Namespace) -> int:
    console = _console()
    plan = _plan(arguments.scenario)
    if arguments.dry_run:
        _show_plan(plan, console)
        return 0
    stamp = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%d-%H%M%S")
    folder: Path = arguments.out or Path("runs") / f"{stamp}-{plan.scenario.name}"
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise ConfigurationError(
            "the run folder exists already; name another or remove it", source=folder
        ) from None
    folder = folder.resolve()
    write_resolved(plan, folder)
    total = sum(len(board.questions) for board in plan.boards)

    def body() -> int:
        asyncio.run(run_plan(plan, folder, ConsoleProgress(console, total)))
        return 0

    status = run_in_sandbox(body)
    if status != 0:
        return status
    _show_summary(write_report(folder), console)
    console.print(f"report: {folder / 'report.html'}")
    return 0


def _show_plan(plan: RunPlan, console: Console) -> None:
    console.print(f"backend: {plan.backend}", highlight=False)
    for number, line in enumerate(describe(plan), 1):
        console.print(f"{number:3}  {line}", markup=False, highlight=False)
    table = Table(title="Predicted link time of one question sent up (500 B up, 1200 B down)")
    table.add_column("device")
    table.add_column("link")
    table.add_column("without loss", justify="right")
    for board in plan.boards:
        predicted = predicted_ask_ms(board.link.conditions)
        table.add_row(board.name, board.entry.link.kind, f"{predicted:.1f} ms")
    console.print(table)


def _show_summary(figures: dict[str, object], console: Console) -> None:
    table = Table(title="Result")
    for column in ("", "questions", "accuracy", "in cloud", "median", "p95", "link"):
        table.add_column(column, justify="left" if column == "" else "right")
    for section in ("by_device", "by_place"):
        rows = figures[section]
        assert isinstance(rows, list)
        for row in rows:
            table.add_row(
                row["group"],
                str(row["questions"]),
                f"{row['accuracy']:.0%}",
                f"{row['sent_up']:.0%}",
                f"{row['median_ms']:.0f} ms",
                f"{row['p95_ms']:.0f} ms",
                f"{row['link_ms']:.0f} ms",
            )
        table.add_section()
    console.print(table)


def _validate(arguments: argparse.Namespace) -> int:
    for path in arguments.scenarios:
        scenario = _load(path)
        print(
            f"{path}: {len(scenario.devices)} devices, {scenario.questions.count} questions, valid"
        )
    return 0


def _report(arguments: argparse.Namespace) -> int:
    _show_summary(write_report(arguments.folder), _console())
    print(arguments.folder / "report.html")
    return 0


def _certificates(arguments: argparse.Namespace) -> int:
    make_authority(arguments.out)
    for entry in arguments.names:
        name, _, hosts = entry.partition("=")
        issue(
            arguments.out,
            name,
            [host for host in hosts.split(",") if host],
            roles=[Role(role) for role in arguments.role],
            days=arguments.days,
        )
        print(arguments.out / f"{name}.crt")
        print(make_curve_keys(arguments.out / "telemetry", name))
    return 0


def _schema(_: argparse.Namespace) -> int:
    print(json.dumps(Scenario.model_json_schema(), indent=2))
    return 0


def _days(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MOST_DAYS:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of days from 1 to {MOST_DAYS}")
    return int(text)


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser(prog="testbed", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    command = commands.add_parser("run", help="run a scenario and write its report")
    command.add_argument("scenario", type=Path)
    command.add_argument("--out", type=Path, help="run folder (default: runs/TIME-NAME)")
    command.add_argument(
        "--dry-run", action="store_true", help="print the exact operations and predicted times"
    )
    command.set_defaults(call=_run)

    command = commands.add_parser("validate", help="check scenarios without running them")
    command.add_argument("scenarios", type=Path, nargs="+")
    command.set_defaults(call=_validate)

    command = commands.add_parser("report", help="write a run folder's report again")
    command.add_argument("folder", type=Path)
    command.set_defaults(call=_report)

    command = commands.add_parser(
        "certificates", help="make a local CA and certificates for mutual TLS"
    )
    command.add_argument(
        "--out",
        type=Path,
        required=True,
        help="the folder; an authority that is there already (ca.crt, ca.key) signs these as well",
    )
    command.add_argument(
        "names",
        nargs="+",
        metavar="NAME[=HOST,…]",
        help="who it is for, and the host names and addresses at which it serves",
    )
    command.add_argument(
        "--role",
        action="append",
        default=[],
        choices=[role.value for role in Role],
        help="what all these may do; may be repeated (default: what a device may)",
    )
    command.add_argument(
        "--days", type=_days, default=DAYS, help="how long they are valid (default: %(default)s)"
    )
    command.set_defaults(call=_certificates)

    command = commands.add_parser("schema", help="print the JSON schema of scenarios")
    command.set_defaults(call=_schema)
    return parser


def main() -> None:
    """Entry point of the console script."""
    arguments = build_parser().parse_args()
    try:
        raise SystemExit(arguments.call(arguments))
    except AirloomError as error:
        print(f"testbed: {error}", file=sys.stderr)
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
