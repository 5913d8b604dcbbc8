"""A link between two namespaces, made for a measurement inside a sandbox."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from airloom.errors import LinkError
from netctl.backends import BACKENDS, LinkSpec, execute
from netctl.backends.base import AIR_NAMESPACE, namespace_commands
from netctl.conditions.link import DirectionConditions, LinkConditions

DEVICE, CLOUD = ("board", "10.9.0.2"), ("cloud", "10.9.0.1")
"""Namespace and address of both ends."""


@dataclass(frozen=True, slots=True)
class BenchLink:
    """A running link; its process, where one carries it, and when that began."""

    spec: LinkSpec
    process: subprocess.Popen[str] | None
    begin_s: float = 0.0


def specification(conditions: LinkConditions, seed: int = 5) -> LinkSpec:
    """The link of the bench."""
    return LinkSpec(
        "board", DEVICE[0], CLOUD[0], f"{DEVICE[1]}/30", f"{CLOUD[1]}/30", conditions, seed
    )


def make_namespaces() -> None:
    """Once in a sandbox."""
    # The loopback of the sandbox, over which the baseline is measured.
    execute.run(("ip", "link", "set", "lo", "up"))
    execute.run_all(namespace_commands((AIR_NAMESPACE, DEVICE[0], CLOUD[0])))


@contextlib.contextmanager
def bench_link(
    backend: str,
    conditions: LinkConditions,
    *,
    uplink_trace: Path | None = None,
) -> Iterator[BenchLink]:
    """Make the link between both namespaces until the block ends, then take it away."""
    spec = specification(conditions)
    plan = BACKENDS[backend].plan(spec)
    execute.run_all(plan.commands)
    process, begin_s = None, 0.0
    try:
        if plan.process is not None:
            traced = ("--uplink-trace", str(uplink_trace)) if uplink_trace is not None else ()
            process = subprocess.Popen(
                [sys.executable, "-m", "netctl.cli", *plan.process[1:], *traced],
                stdout=subprocess.PIPE,
                text=True,
            )
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise LinkError("the link's process did not start")
            begin_s = json.loads(line)["begin_s"]
        execute.run_all(plan.after_process)
        shown = [execute.run_json(command) for command in plan.read_back]
        if wrong := BACKENDS[backend].differences(spec, shown):
            raise LinkError(f"the kernel made another link: {'; '.join(wrong)}")
        yield BenchLink(spec, process, begin_s)
    finally:
        if process is not None:
            process.terminate()
            process.communicate(timeout=60)
        if backend != "userspace-tun":
            shown = execute.run_json(("ip", "-n", AIR_NAMESPACE, "-j", "link", "show"))
            # One end takes the other with it: those of each pair that is there.
            for interface in (f"{spec.name}-{end}" for end in "dcux"):
                if any(one["ifname"] == interface for one in shown):
                    execute.run(("ip", "-n", AIR_NAMESPACE, "link", "del", interface))


def one_way(uplink: DirectionConditions) -> LinkConditions:
    """An uplink so, and a downlink that is free."""
    return LinkConditions(uplink, DirectionConditions())
