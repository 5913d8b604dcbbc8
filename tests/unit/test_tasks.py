"""Every task that is created is known, with who waits for it and what becomes of what it raises.

A task that nobody waits for takes what it raises with it, and leaves whoever asked without an answer.
A new one belongs into this list, with its reason and a test in which something unexpected is raised in it.
"""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("airloom", "collaboration", "device_agent", "cloud_agent", "netctl/daemon")
CREATES = {"create_task", "ensure_future", "TaskGroup", "run_coroutine_threadsafe"}

KNOWN = {
    "airloom/concurrency.py:first_to_end": (1, "the first to end is the outcome"),
    "airloom/concurrency.py:within": (1, "waited for, and its outcome handed on"),
    "cloud_agent/fleet/asks.py:begin": (
        1,
        "sends what is raised to the device as the ask's result",
    ),
    "cloud_agent/fleet/stream.py:serve": (
        2,
        "whichever of reading and writing ends, ends the stream",
    ),
    "device_agent/uplink/stream.py:_begin": (1, "sends what is raised to the cloud as the result"),
    "device_agent/http/answers.py:_merged": (1, "tells of its end in a finally, then waited for"),
    "device_agent/http/answers.py:streamed": (
        1,
        "its end, whatever it is, ends the queue of pieces",
    ),
    "device_agent/http/answers.py:unless_gone": (2, "waited for, and the work's outcome handed on"),
    "device_agent/http/server.py:serve_http": (1, "waited for"),
    "device_agent/service/idempotency.py:_start": (
        1,
        "its end ends the shared stream; followers wait for it",
    ),
    "device_agent/service/idempotency.py:_follow": (
        1,
        "waited for by the deadline, its outcome handed on",
    ),
    "device_agent/service/servicer.py:InferBatch": (1, "what is raised becomes that task's result"),
    "netctl/daemon/client.py:take": (1, "`lost` waits for the renewal, and raises what it does"),
    "netctl/daemon/server.py:_unless_ended": (2, "waited for, and the message handed on"),
    "netctl/daemon/server.py:serve": (1, "looks for what killed holders left; nobody asked for it"),
    "netctl/daemon/together.py:shape_together": (
        2,
        "whichever ends first ends all, with its outcome",
    ),
}
"""By file and function: how many it creates, and why nobody is left waiting."""


class _Creations(ast.NodeVisitor):
    def __init__(self) -> None:
        self.functions: list[str] = []
        self.found: Counter[str] = Counter()

    def _in_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self.functions.append(node.name)
        self.generic_visit(node)
        self.functions.pop()

    visit_FunctionDef = visit_AsyncFunctionDef = _in_function  # noqa: N815

    def visit_Call(self, node: ast.Call) -> None:
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if name in CREATES:
            self.found[self.functions[0] if self.functions else ""] += 1
        self.generic_visit(node)


def creations() -> Counter[str]:
    found: Counter[str] = Counter()
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            visitor = _Creations()
            visitor.visit(ast.parse(path.read_text(encoding="utf-8")))
            for function, count in visitor.found.items():
                found[f"{path.relative_to(ROOT)}:{function}"] += count
    return found


def test_every_task_is_known() -> None:
    assert creations() == {place: count for place, (count, _) in KNOWN.items()}
