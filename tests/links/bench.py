"""A bench of one link between two namespaces, made and measured in a sandbox."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from netctl import execute
from netctl.backends import BACKENDS, LinkSpec
from netctl.backends.base import AIR_NAMESPACE
from netctl.conditions import LinkConditions
from testbed.runner import links
from testbed.runner.plan import BoardPlan
from testbed.sandbox import run_in_sandbox
from testbed.scenario import DeviceEntry


def _board(backend: str, conditions: LinkConditions) -> BoardPlan:
    spec = LinkSpec("board", "board", "cloud", "10.9.0.2/30", "10.9.0.1/30", conditions, seed=5)
    entry = DeviceEntry.model_validate(
        {"name": "board", "model": {"path": "none"}, "link": {"uplink": {}, "downlink": {}}}
    )
    return BoardPlan(entry, spec, BACKENDS[backend].plan(spec), ())


def measured_link(backend: str, conditions: LinkConditions, result: Path) -> dict[str, Any]:
    """Make the link, measure both directions, and return {"measured": …, "read_back": …}."""

    def body() -> int:
        board = _board(backend, conditions)
        for name in (AIR_NAMESPACE, "board", "cloud"):
            execute.run_all(
                [("ip", "netns", "add", name), ("ip", "-n", name, "link", "set", "lo", "up")]
            )
        execute.run_all(board.operations.commands)
        process = None
        if board.operations.process is not None:
            process = execute.start(board.operations.process)
        execute.run_all(board.operations.after_process)
        measured = asyncio.run(links.measure(board, probes=1000))
        found = {"measured": measured, "read_back": links.read_back(board)}
        result.write_text(json.dumps(found), encoding="utf-8")
        if process is not None:
            process.terminate()
            process.wait(timeout=10)
        return 0

    assert run_in_sandbox(body) == 0
    found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return found
