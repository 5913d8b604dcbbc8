"""Write report.html: one file, no network needed to read it."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from testbed.records import read_events, write_atomically
from testbed.report import plots
from testbed.report.summary import summary

_COLUMNS = (
    ("group", "", "{}"),
    ("questions", "questions", "{}"),
    ("accuracy", "accuracy", "{:.0%}"),
    ("sent_up", "answered in cloud", "{:.0%}"),
    ("median_ms", "median ms", "{:.0f}"),
    ("p95_ms", "p95 ms", "{:.0f}"),
    ("link_ms", "link ms", "{:.0f}"),
    ("message_bytes", "message bytes", "{:,}"),
)


def _table(rows: list[dict[str, Any]]) -> Markup:
    head = Markup("").join(
        Markup('<th class="{}">{}</th>').format("" if key == "group" else "n", title)
        for key, title, _ in _COLUMNS
    )
    body = Markup("").join(
        Markup("<tr>{}</tr>").format(
            Markup("").join(
                Markup('<td class="{}">{}</td>').format(
                    "" if key == "group" else "n", form.format(row[key])
                )
                for key, _, form in _COLUMNS
            )
        )
        for row in rows
    )
    return Markup("<table><tr>{}</tr>{}</table>").format(head, body)


def write_report(folder: Path) -> dict[str, Any]:
    """Write summary.json and report.html from the folder's events; return the summary."""
    events = read_events(folder)
    resolved = (folder / "resolved.json").read_text(encoding="utf-8")
    figures = summary(events, json.loads(resolved)["cards"])
    write_atomically(folder / "summary.json", json.dumps(figures, indent=2) + "\n")
    started = next(event for event in events if event["event"] == "started")
    answers = [event for event in events if event["event"] == "answer"]
    samples = [event for event in events if event["event"] == "telemetry"]
    kept = ("event", "unix_ns", "run_s", "scenario", "backend")
    versions = {key: value for key, value in started.items() if key not in kept}
    drawn = {
        "accuracy_device": plots.accuracy(figures["by_device"], "Accuracy by device"),
        "accuracy_place": plots.accuracy(figures["by_place"], "Accuracy by place of answer"),
        "latency": plots.latency(answers),
        "breakdown": plots.breakdown(answers),
        "timeline": plots.timeline(answers),
        "air": plots.air(figures["air_bytes"]),
        "telemetry": plots.telemetry(samples),
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    moment = datetime.datetime.fromtimestamp(started["unix_ns"] / 1e9, datetime.timezone.utc)
    page = environment.get_template("page.html").render(
        name=started["scenario"],
        backend=started["backend"],
        started=moment.strftime("%Y-%m-%d %H:%M:%S UTC"),
        versions=versions,
        versions_json=json.dumps(versions, indent=2),
        summary=figures,
        plots={name: Markup(svg) for name, svg in drawn.items()},
        answers=answers,
        unanswered=[event for event in events if event["event"] == "unanswered"],
        resolved=resolved,
        table=_table,
    )
    write_atomically(folder / "report.html", page)
    return figures
