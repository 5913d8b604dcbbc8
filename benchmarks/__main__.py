"""`python -m benchmarks [NAME …]`: measure, print a table, write build/bench.json."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from benchmarks import attacks, fleet, links, netctl, runtime
from benchmarks.result import Result, show, write

BENCHMARKS: dict[str, Callable[[], list[Result]]] = {
    "attacks": attacks.run,
    "fleet": fleet.run,
    "links": links.run,
    "netctl": netctl.run,
    "runtime": runtime.run,
}


PARTS = {
    f"{whole}-{name}": run
    for whole, parts in (
        ("fleet", fleet.PARTS),
        ("netctl", netctl.PARTS),
        ("runtime", runtime.PARTS),
    )
    for name, run in parts.items()
}
"""Of the long ones, to be run by themselves: `make bench-netctl-replay`."""


def main() -> None:
    """Entry point; ends with status 1 where a goal is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*BENCHMARKS, *PARTS, []], metavar="NAME")
    parser.add_argument("--out", type=Path, default=Path("build/bench.json"))
    arguments = parser.parse_args()
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    results: list[Result] = []
    for name in arguments.names or BENCHMARKS:
        console.print(f"[bold]measuring {name}[/]")
        results += (BENCHMARKS | PARTS)[name]()
    show(results, console)
    write(results, arguments.out)
    console.print(f"written to {arguments.out}")
    raise SystemExit(0 if all(result.passed for result in results) else 1)


if __name__ == "__main__":
    main()
