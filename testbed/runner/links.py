"""Build the planned links and measure them before anything is asked."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from airloom.errors import LinkError
from netctl.backends import BACKENDS, execute
from netctl.backends.base import Command
from netctl.conditions.link import LinkConditions
from netctl.conditions.timeline import moments
from testbed.records import EventLog
from testbed.runner.plan import BoardPlan, RunPlan


class Links:
    """The links of a run and the processes that carry them."""

    def __init__(self) -> None:
        self._processes: dict[str, subprocess.Popen[str]] = {}

    def build(self, plan: RunPlan) -> None:
        """Carry out the plan's operations."""
        execute.run_all(plan.namespaces)
        for board in plan.boards:
            process = execute.make_link(board.operations)
            if process is not None:
                self._processes[board.name] = process

    def check_running(self) -> None:
        """Raise LinkError where a process that carries a link has ended."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                _, errors = process.communicate()
                raise LinkError(f"the link of {name} ended during the run: {errors.strip()}")

    def stop(self) -> dict[str, Any]:
        """End the processes; return their counters by link."""
        counters: dict[str, Any] = {}
        for process in self._processes.values():
            if process.poll() is None:
                process.terminate()
        for name, process in self._processes.items():
            output, _ = process.communicate(timeout=10)
            if output.strip():
                counters[name] = json.loads(output)
        return counters


async def follow_course(board: BoardPlan, epoch_file: Path, log: EventLog) -> None:
    """Change a board's link as its timeline says, from now on until cancelled.

    Each change is an epoch: the board writes the present one's number into its answers.
    """
    begin_s = time.monotonic()
    changes = [(at_ms, (conditions, commands)) for at_ms, conditions, commands in board.changes]
    for epoch, (at_ms, change) in enumerate(moments(changes, board.period_ms), 2):
        if change is None:
            return
        conditions, commands = change
        await asyncio.sleep(max(0.0, begin_s + at_ms / 1e3 - time.monotonic()))
        await asyncio.to_thread(execute.run_all, commands)
        late_ms = (time.monotonic() - begin_s) * 1e3 - at_ms
        write_epoch(epoch_file, epoch)
        log_conditions(board, epoch, conditions, log, at_ms=at_ms, late_ms=late_ms)


def write_epoch(file: Path, epoch: int) -> None:
    """Tell a board the number of its link's present conditions."""
    partial = file.with_suffix(".partial")
    partial.write_text(str(epoch), encoding="ascii")
    partial.replace(file)


def log_conditions(
    board: BoardPlan, epoch: int, conditions: LinkConditions, log: EventLog, **more: Any
) -> None:
    """Write down what a board's link is from now on."""
    ways = {"uplink": asdict(conditions.uplink), "downlink": asdict(conditions.downlink)}
    log.write(
        "link", device=board.name, epoch=epoch, kind=board.entry.link.kind, conditions=ways, **more
    )


def read_back(board: BoardPlan, backend: str) -> list[Any]:
    """What the kernel says it made of the board's link; LinkError where that is something else."""
    shown = [execute.run_json(command) for command in board.operations.read_back]
    if wrong := BACKENDS[backend].differences(board.link, shown):
        raise LinkError(f"the kernel made another link for {board.name}: {'; '.join(wrong)}")
    return shown


async def measure(board: BoardPlan, probes: int) -> dict[str, Any]:
    """Measure both directions of a board's link in a process of its own."""
    conditions = board.link.conditions
    command: Command = (
        sys.executable, "-m", "netctl.cli", "measure",
        "--device", f"{board.name}/{board.device_host}",
        "--cloud", f"{board.link.cloud_namespace}/{board.cloud_host}",
        "--uplink", json.dumps(asdict(conditions.uplink)),
        "--downlink", json.dumps(asdict(conditions.downlink)),
        "--probes", str(probes),
    )  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await process.communicate()
    if process.returncode != 0:
        raise LinkError(f"the link of {board.name} cannot be measured: {errors.decode().strip()}")
    result: dict[str, Any] = json.loads(output)
    return result


def air_bytes(board: BoardPlan) -> dict[str, int]:
    """Bytes that crossed the board's link so far, as its own interface counted them."""
    shown = execute.run_json(
        ("ip", "-n", board.name, "-s", "-j", "link", "show", board.link.device_interface)
    )
    counters = shown[0]["stats64"]
    return {"uplink": counters["tx"]["bytes"], "downlink": counters["rx"]["bytes"]}
