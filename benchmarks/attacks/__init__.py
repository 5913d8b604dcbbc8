"""Attacks on live agents: none may crash, hang, cross answers, grow memory or hold up the others.

Everything happens on this machine's loopback, against agents that are started for it, one attack at
a time. To add one: write a function that sends it to a `Site`, and name it in its family's ATTACKS.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.attacks import (
    cascades,
    forms,
    handover,
    identity,
    labels,
    local,
    models,
    sampling,
    servers,
    sizes,
    streams,
    vocabularies,
    web,
)
from benchmarks.attacks.asker import Asker
from benchmarks.attacks.attack import Attack
from benchmarks.attacks.runner import P50_RATIO, Row
from benchmarks.attacks.runner import run as run_one
from benchmarks.result import Result

FAMILIES = (
    *(labels, sampling, forms, vocabularies, handover, models),
    *(servers, cascades, identity, web, local, sizes, streams),
)
ATTACKS: tuple[Attack, ...] = tuple(attack for family in FAMILIES for attack in family.ATTACKS)
LIMIT_S = 15 * 60.0
REPORT = Path("build/attacks.json")
SELECT = "AIRLOOM_ATTACKS"
"""The environment variable that holds the beginning of the names of the attacks to be run."""


async def _run_all(attacks: tuple[Attack, ...], console: Console) -> list[Row]:
    until_s, rows = time.monotonic() + LIMIT_S, []
    with Asker() as asker:
        for attack in attacks:
            left_s = until_s - time.monotonic()
            try:
                row = await asyncio.wait_for(run_one(attack, asker), max(0.0, left_s))
            except asyncio.TimeoutError:
                row = Row(attack, "", 0, 0, 1, 1, 0, False, (f"no time left of {LIMIT_S:g} s",))
            rows.append(row)
            console.print(f"  {attack.name}: {_verdict(row)}", highlight=False)
    return rows


def _verdict(row: Row) -> str:
    slow = f"p50 {row.beside_ms / row.alone_ms:.1f}x"
    return "; ".join(row.wrong) or (slow if row.only_slow else "ok")


def _show(rows: list[Row], console: Console) -> None:
    table = Table(title=f"{len(rows)} attacks")
    for title in (
        "attack",
        "sent",
        "outcome",
        "MiB before",
        "at most",
        "p50 alone",
        "beside",
        "wrong",
    ):
        table.add_column(title, justify="right" if title[0] in "Mpb" else "left")
    for row in rows:
        table.add_row(
            row.attack.name, row.attack.sent, row.said[:120], f"{row.before_mib:.0f}",
            f"{row.peak_mib:.0f}", f"{row.alone_ms:.1f} ms", f"{row.beside_ms:.1f} ms",
            _verdict(row),
        )  # fmt: skip
    console.print(table)


def _as_dict(row: Row) -> dict[str, object]:
    return {
        "attack": row.attack.name, "sent": row.attack.sent, "outcome": row.said,
        "before_mib": row.before_mib, "peak_mib": row.peak_mib, "alone_p50_ms": row.alone_ms,
        "beside_p50_ms": row.beside_ms, "requests": row.requests, "serving": row.serving,
        "wrong": row.wrong,
    }  # fmt: skip


def run() -> list[Result]:
    """Send every attack; a row's value is the p50 of the legitimate requests beside it."""
    console = Console(width=None if Console().is_terminal else 220)
    chosen = os.environ.get(SELECT, "")
    attacks = tuple(attack for attack in ATTACKS if attack.name.startswith(chosen))
    rows = asyncio.run(_run_all(attacks, console))
    _show(rows, console)
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps([_as_dict(row) for row in rows], indent=2), encoding="utf-8")
    results = [
        Result(
            f"attacks/{row.attack.name}", row.beside_ms, "ms, p50 beside it", "without it",
            row.alone_ms, at_most=P50_RATIO, wrong="; ".join(row.wrong),
        )
        for row in rows
    ]  # fmt: skip
    passed = sum(row.withstood for row in rows)
    return [*results, Result("attacks/withstood", passed, "attacks", "sent", len(rows), 1.0)]
