"""What a run ran on and with, so that it can be told and run again."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

from testbed.evaluation import card_of
from testbed.records import write_atomically
from testbed.runner.plan import RunPlan


def provenance() -> dict[str, Any]:
    """What this run ran on."""
    return {
        "airloom": importlib.metadata.version("airloom"),
        "llama-cpp-python": importlib.metadata.version("llama-cpp-python"),
        "grpcio": importlib.metadata.version("grpcio"),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "as_root": _outer_uid() == 0,
    }


def _outer_uid() -> int:
    """The user this runs as outside its user namespace, where it is in one."""
    first = Path("/proc/self/uid_map").read_text(encoding="ascii").split()
    return int(first[1])


def resolved(plan: RunPlan) -> str:
    """The scenario with every default filled in, every model's hash and what its card says, as JSON."""
    paths = {plan.scenario.cloud.model.path, *(b.entry.model.path for b in plan.boards)}
    models = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(paths)}
    return json.dumps(
        {
            "scenario": plan.scenario.model_dump(mode="json"),
            "backend": plan.backend,
            "link_seeds": {board.name: board.link.seed for board in plan.boards},
            "models": {str(path): digest for path, digest in models.items()},
            "cards": {digest: said for p, digest in models.items() if (said := card_of(p, digest))},
            "questions": {board.name: [q.id for q in board.questions] for board in plan.boards},
        },
        indent=2,
    )


def write_resolved(plan: RunPlan, folder: Path) -> None:
    """Write resolved.json into the run folder."""
    write_atomically(folder / "resolved.json", resolved(plan) + "\n")
