"""A bench of one link between two namespaces, made in a sandbox."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measuring import TOO_BUSY
from sandboxes import run_in_sandbox

from airloom.errors import LinkError
from netctl.backends import BACKENDS, LinkSpec, execute
from netctl.backends.base import AIR_NAMESPACE, namespace_commands
from netctl.conditions.link import LinkConditions
from testbed.runner import links
from testbed.runner.plan import BoardPlan
from testbed.scenario import DeviceEntry

DEVICE, CLOUD = "10.9.0.2", "10.9.0.1"


def _board(backend: str, conditions: LinkConditions, *, varying: bool) -> BoardPlan:
    spec = LinkSpec(
        "board", "board", "cloud", f"{DEVICE}/30", f"{CLOUD}/30", conditions, 5, varying=varying
    )
    entry = DeviceEntry.model_validate(
        {"name": "board", "model": {"path": "none"}, "link": {"uplink": {}, "downlink": {}}}
    )
    return BoardPlan(entry, spec, BACKENDS[backend].plan(spec), ())


def on_link(
    backend: str,
    conditions: LinkConditions,
    result: Path,
    use: Callable[[BoardPlan], Any],
    *,
    varying: bool = False,
) -> Any:
    """Make the link, use it, and return what `use` returned (by way of a JSON file)."""

    def body() -> int:
        board = _board(backend, conditions, varying=varying)
        execute.run_all(namespace_commands((AIR_NAMESPACE, "board", "cloud")))
        process = execute.make_link(board.operations)
        with contextlib.ExitStack() as stack:
            if process is not None:
                stack.callback(process.communicate, timeout=60)
                stack.callback(process.terminate)
            result.write_text(json.dumps(use(board)), encoding="utf-8")
        return 0

    assert run_in_sandbox(body) == 0
    return json.loads(result.read_text(encoding="utf-8"))


def measured_link(backend: str, conditions: LinkConditions, result: Path) -> dict[str, Any]:
    """Make the link, measure both directions, and return {"measured": …, "read_back": …}.

    Or {"inconclusive": …} where this machine was too busy to tell.
    """

    def use(board: BoardPlan) -> dict[str, Any]:
        try:
            measured = asyncio.run(links.measure(board, probes=1000))
        except LinkError as error:
            if TOO_BUSY not in str(error):
                raise
            return {"inconclusive": str(error)}
        return {"measured": measured, "read_back": links.read_back(board, backend)}

    found: dict[str, Any] = on_link(backend, conditions, result, use)
    return found
