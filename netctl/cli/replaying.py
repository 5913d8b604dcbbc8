"""The command that lets an interface follow a trace."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from airloom.errors import ConfigurationError
from airloom.units import parse_time_ms
from netctl.backends.kernel import read_back, tree
from netctl.backends.kernel.netlink import Netlink
from netctl.cli.arguments import reading, show
from netctl.cli.shaping import add_conditions, asked_of
from netctl.conditions.link import DirectionConditions
from netctl.interface.lease import RENEWALS
from netctl.interface.pacing import closed_bps
from netctl.interface.replay import Watch, meter, replay_conditions, replay_opportunities
from netctl.interface.restore import restore
from netctl.interface.shape import netem_here, taken
from netctl.traces.files import read_trace
from netctl.traces.trace import ConditionTrace, OpportunityTrace

_LEAD_S = 0.05
_QUEUE_BYTES = 1 << 18
"""Before the rate, where neither --queue nor a profile says how much."""


def _refuse_what_the_trace_says(
    arguments: argparse.Namespace, trace: OpportunityTrace | ConditionTrace
) -> None:
    """ConfigurationError for an option that could only be ignored."""
    told = {"rate": True, "delay": False, "loss": False}
    if isinstance(trace, ConditionTrace):
        first = trace.steps[0]
        told = {
            "rate": first.rate_bps is not None,
            "delay": first.delay_ms is not None,
            "loss": first.loss is not None,
        }
    elif arguments.interpolate is not None:
        raise ConfigurationError(
            "--interpolate is for tables of conditions; this trace has opportunities",
            source=arguments.trace,
        )
    for name, by_trace in told.items():
        if by_trace and getattr(arguments, name) is not None:
            raise ConfigurationError(f"--{name} is what the trace says", source=arguments.trace)


def _first_of(
    trace: OpportunityTrace | ConditionTrace, asked: DirectionConditions, file: Path
) -> DirectionConditions:
    """What is in force before the trace begins, in a tree that can follow all of it."""
    if isinstance(trace, OpportunityTrace):
        return replace(asked, rate_bps=round(trace.mean_rate_bps))
    try:
        # All of them: one that no link can be must not be found out in the middle.
        first, *_ = [step.on(asked) for step in trace.steps]
    except ValueError as error:
        raise ConfigurationError(str(error), source=file) from error
    return first


def _replay(arguments: argparse.Namespace) -> None:
    trace = read_trace(arguments.trace)
    _refuse_what_the_trace_says(arguments, trace)
    with_netem = netem_here()
    restore()
    exempt = tuple(arguments.exempt)
    asked = asked_of(arguments)
    if arguments.queue is None and arguments.profile is None:
        asked = replace(asked, queue_bytes=_QUEUE_BYTES)
    if isinstance(trace, ConditionTrace):
        rates_bps = [step.rate_bps for step in trace.steps if step.rate_bps]
        asked = replace(asked, rate_bps=round(max(rates_bps))) if rates_bps else tree.metered(asked)
    first = _first_of(trace, asked, arguments.trace)
    duration_s = (arguments.duration or trace.period_ms) / 1e3
    planned = tree.tree(first, varying=True, exempt=exempt, netem_here=with_netem)
    if isinstance(trace, OpportunityTrace):
        # Nothing but one packet leaves before the first opportunity: nothing is saved up for more.
        closed = meter(closed_bps(trace, _LEAD_S), first.mtu_bytes)
        planned = replace(planned, rate=replace(closed, burst_bytes=1))
    lease_s = arguments.lease / 1e3
    with (
        Netlink() as netlink,
        taken(netlink, arguments.interface, planned, lease_s, arguments.incoming) as (
            lease,
            shaped,
        ),
    ):

        def look(present: tree.Tree) -> None:
            lease.renew()
            read_back.check(netlink, shaped, present)

        watch = Watch(lease_s / RENEWALS, look, lease.require_in_time)
        begin_s = time.monotonic() + _LEAD_S
        if isinstance(trace, OpportunityTrace):
            report = replay_opportunities(
                shaped, trace, planned, begin_s=begin_s, duration_s=duration_s, watch=watch
            )
        else:
            report = replay_conditions(
                shaped,
                trace,
                asked,
                begin_s=begin_s,
                duration_s=duration_s,
                interpolated_ms=arguments.interpolate,
                exempt=exempt,
                netem_here=with_netem,
                watch=watch,
            )
    text = (
        f"{report.changes} changes in {duration_s:g} s, late by {report.late_ms_p50:.3f} ms "
        f"(median), {report.late_ms_p99:.3f} ms (p99); {arguments.interface} is restored"
    )
    show(asdict(report), text, arguments)


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add this command to the command line."""
    command = commands.add_parser(
        "replay", help="let an interface's rate follow a trace, then restore it", parents=[common]
    )
    command.add_argument("interface")
    add_conditions(command)
    command.add_argument("--incoming", action="store_true", help="what arrives instead")
    command.add_argument("--trace", type=Path, required=True, help="Mahimahi's format, or *.csv")
    command.add_argument(
        "--interpolate",
        type=reading(parse_time_ms),
        metavar="STEP",
        help="between a table's rows go in steps of '100 ms'",
    )
    command.set_defaults(run=_replay)
