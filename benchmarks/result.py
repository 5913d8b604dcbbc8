"""One line of a benchmark's table, and the file that keeps them."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from device_agent.doctor import processor_name
from testbed.records import write_atomically


@dataclass(frozen=True, slots=True)
class Result:
    """A value, its peer measured in the same run, and whether their ratio reaches the goal."""

    name: str
    value: float
    unit: str
    peer: str
    peer_value: float
    at_least: float | None = None
    """The goal: the ratio value / peer must be at least this …"""
    at_most: float | None = None
    """… or at most this."""
    wrong: str = ""
    """What fails the line whatever its ratio is."""

    @property
    def ratio(self) -> float:
        return self.value / self.peer_value

    @property
    def goal(self) -> str:
        if self.at_least is not None:
            return f"≥ {self.at_least:g}"
        return f"≤ {self.at_most:g}" if self.at_most is not None else "none"

    @property
    def passed(self) -> bool:
        low = self.at_least if self.at_least is not None else float("-inf")
        high = self.at_most if self.at_most is not None else float("inf")
        return low <= self.ratio <= high and not self.wrong

    def as_dict(self) -> dict[str, object]:
        """The fields of build/bench.json."""
        fields = asdict(self)
        kept = {key: fields[key] for key in ("name", "value", "unit", "peer", "peer_value")}
        told = {"wrong": self.wrong} if self.wrong else {}
        return {**kept, "ratio": self.ratio, "goal": self.goal, "pass": self.passed, **told}


def processor() -> str:
    """The processor's own name and how many there are."""
    return f"{os.cpu_count()} × {processor_name()}"


def show(results: Sequence[Result], console: Console) -> None:
    """Print the table."""
    table = Table(title=f"{processor()}, Linux {platform.release()}")
    for title in ("name", "value", "unit", "peer", "peer value", "ratio", "goal", "pass"):
        table.add_column(title, justify="left" if title in ("name", "unit", "peer") else "right")
    for r in results:
        verdict = "[green]yes[/]" if r.passed else "[red]no[/]"
        table.add_row(
            r.name, f"{r.value:.4g}", r.unit, r.peer, f"{r.peer_value:.4g}", f"{r.ratio:.3f}",
            r.goal, verdict,
        )  # fmt: skip
    console.print(table)


def write(results: Sequence[Result], path: Path) -> None:
    """Write the file whole; lines of benchmarks that were not run now stay as they were."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept: list[dict[str, object]] = []
    if path.exists():
        fresh = {result.name for result in results}
        kept = [line for line in json.loads(path.read_text("utf-8")) if line["name"] not in fresh]
    lines = [*kept, *(result.as_dict() for result in results)]
    write_atomically(path, json.dumps(lines, indent=2) + "\n")
