"""Commands that touch nothing: profiles, lint, plan, trace."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from airloom.units import format_rate
from netctl.backends import LinkSpec, choose
from netctl.backends.capabilities import probe
from netctl.cli.arguments import add_link, link_of, show
from netctl.conditions.link import DirectionConditions
from netctl.conditions.lint import Finding, lint
from netctl.traces.files import read_trace, write_opportunities
from netctl.traces.plot import sparkline, svg
from netctl.traces.trace import OpportunityTrace


def _summary(c: DirectionConditions) -> str:
    if not c.up:
        return "down"
    jitter = f" ± {c.jitter_ms:g}" if c.jitter_ms else ""
    return f"{format_rate(c.rate_bps)}, {c.delay_ms:g}{jitter} ms, loss {c.loss:.2%}"


def _profiles(arguments: argparse.Namespace) -> None:
    from netctl.conditions.profiles import profiles

    rows, lines = [], []
    for one in profiles().values():
        rows.append(asdict(one))
        changes = f"  ({len(one.timeline)} changes in {(one.period_ms or 0) / 1e3:g} s)"
        lines += [
            f"{one.name} [{one.basis}]{changes if one.timeline else ''}",
            f"    up   {_summary(one.conditions.uplink)}",
            f"    down {_summary(one.conditions.downlink)}",
            f"    {one.source}",
        ]
    show(rows, "\n".join(lines), arguments)


def _written(findings: list[Finding]) -> str:
    if not findings:
        return "nothing to remark"
    return "\n".join(f"{f.severity}: {f.way}: {f.rule}: {f.message}" for f in findings)


def _lint(arguments: argparse.Namespace) -> None:
    findings = lint(link_of(arguments))
    show([asdict(one) for one in findings], _written(findings), arguments)
    if any(one.severity == "warning" for one in findings):
        raise SystemExit(1)


def _plan(arguments: argparse.Namespace) -> None:
    link = link_of(arguments)
    backend = choose(arguments.backend, probe())
    spec = LinkSpec(
        "link", "device", "cloud", "10.9.0.2/30", "10.9.0.1/30", link, seed=arguments.seed
    )
    plan = backend.plan(spec)
    findings = lint(link)
    value: dict[str, Any] = {
        "backend": backend.name,
        "plan": asdict(plan),
        "findings": [asdict(one) for one in findings],
        "transfer_ms_of_100_kB": {
            way: getattr(link, way).transfer_ms(100_000) for way in ("uplink", "downlink")
        },
    }
    commands = [*plan.commands, *([plan.process] if plan.process else []), *plan.after_process]
    lines = [f"backend {backend.name}", *(" ".join(command) for command in commands)]
    for way, time_ms in value["transfer_ms_of_100_kB"].items():
        lines.append(f"predicted: 100 kB over warm TCP take {time_ms:.0f} ms on the {way}")
    lines.append(_written(findings))
    show(value, "\n".join(lines), arguments)


def _trace_show(arguments: argparse.Namespace) -> None:
    trace = read_trace(arguments.file)
    if isinstance(trace, OpportunityTrace):
        value: dict[str, Any] = {
            "format": "opportunities",
            "period_ms": trace.period_ms,
            "opportunities": len(trace.times_ms),
            "mean_rate_bps": trace.mean_rate_bps,
        }
        text = (
            f"{len(trace.times_ms)} opportunities of 1500 bytes in {trace.period_ms / 1e3:g} s: "
            f"{format_rate(trace.mean_rate_bps)} on average\n{sparkline(trace)}"
        )
    else:
        value = {"format": "steps", "period_ms": trace.period_ms, "steps": len(trace.steps)}
        text = f"{len(trace.steps)} steps in {trace.period_ms / 1e3:g} s"
    show(value, text, arguments)


def _trace_import(arguments: argparse.Namespace) -> None:
    trace = read_trace(arguments.file)
    if not isinstance(trace, OpportunityTrace):
        trace = trace.opportunities()
    write_opportunities(trace, arguments.out)
    show({"written": str(arguments.out)}, f"written to {arguments.out}", arguments)


def _trace_plot(arguments: argparse.Namespace) -> None:
    trace = read_trace(arguments.file)
    if not isinstance(trace, OpportunityTrace):
        trace = trace.opportunities()
    arguments.out.write_text(svg(trace, arguments.file.name), encoding="utf-8")
    show({"written": str(arguments.out)}, f"written to {arguments.out}", arguments)


def _radio(arguments: argparse.Namespace) -> None:
    from airloom.settings_file import load_yaml
    from netctl.radio.scene import Scene, traces
    from netctl.traces.files import write_steps

    found = traces(load_yaml(arguments.scene, Scene))
    arguments.folder.mkdir(parents=True, exist_ok=True)
    written, lines = {}, []
    for name, trace in found.items():
        path = arguments.folder / f"{name}.csv"
        write_steps(trace, path)
        rates = [step.rate_bps or 0.0 for step in trace.steps]
        dead = sum(rate == 0 for rate in rates)
        written[name] = {
            "file": str(path),
            "mean_rate_bps": sum(rates) / len(rates),
            "dead_share": dead / len(rates),
        }
        lines.append(
            f"{path}: {format_rate(sum(rates) / len(rates))} on average, "
            f"dead for {dead / len(rates):.1%} of the time"
        )
    show(written, "\n".join(lines), arguments)


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add these commands to the command line."""
    command = commands.add_parser(
        "profiles", help="list the links that have names", parents=[common]
    )
    command.set_defaults(run=_profiles)

    command = commands.add_parser(
        "lint", help="say what conditions may not mean as they are", parents=[common]
    )
    add_link(command)
    command.set_defaults(run=_lint)

    command = commands.add_parser(
        "plan", help="print the exact operations that make a link", parents=[common]
    )
    add_link(command)
    command.add_argument("--backend", default="auto")
    command.add_argument("--seed", type=int, default=1)
    command.set_defaults(run=_plan)

    command = commands.add_parser(
        "radio", help="turn a scene of cells and moving stations into traces", parents=[common]
    )
    command.add_argument("scene", type=Path, help="YAML")
    command.add_argument("folder", type=Path, help="for a CSV of each station")
    command.set_defaults(run=_radio)

    command = commands.add_parser("trace", help="look at traces, convert and draw them")
    actions = command.add_subparsers(dest="action", required=True)
    for name, run, text in (
        ("show", _trace_show, "say what is in a trace"),
        ("import", _trace_import, "write a CSV of conditions as Mahimahi's format"),
        ("plot", _trace_plot, "draw a trace's rate over time as SVG"),
    ):
        action = actions.add_parser(name, help=text, parents=[common])
        action.add_argument("file", type=Path, help="*.csv, or Mahimahi's format")
        if name != "show":
            action.add_argument("out", type=Path)
        action.set_defaults(run=run)
