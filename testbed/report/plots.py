"""A run's plots as SVG text."""

from __future__ import annotations

import io
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

mpl.use("Agg")
mpl.rcParams.update(
    {
        "svg.fonttype": "none",
        "svg.hashsalt": "airloom",
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
)

COLORS = {
    "device": "#2a9d8f",
    "cloud": "#6a4c93",
    "queue": "#adb5bd",
    "uplink": "#f4a261",
    "prefill": "#8ecae6",
    "decode": "#219ebc",
    "downlink": "#e76f51",
}
_PARTS = ("queue", "uplink", "prefill", "decode", "downlink")


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _figure(width: float = 6.0, height: float = 3.2) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height))
    return figure, figure.add_subplot()


def accuracy(rows: list[dict[str, Any]], title: str) -> str:
    """Accuracy with 95 % intervals, one bar a row."""
    figure, axes = _figure(height=0.5 * len(rows) + 1.2)
    names = [f"{row['group']}  (n={row['questions']})" for row in rows]
    values = [row["accuracy"] for row in rows]
    errors = [
        [row["accuracy"] - row["accuracy_low"] for row in rows],
        [row["accuracy_high"] - row["accuracy"] for row in rows],
    ]
    colors = [COLORS.get(row["group"], "#2a9d8f") for row in rows]
    axes.barh(names, values, xerr=errors, color=colors, ecolor="#333333", capsize=3)
    axes.set_xlim(0, 1)
    axes.invert_yaxis()
    axes.set_xlabel("accuracy")
    axes.set_title(title)
    return _svg(figure)


def latency(answers: list[dict[str, Any]]) -> str:
    """Every answer's latency, by device and place of answer."""
    figure, axes = _figure()
    devices = list(dict.fromkeys(f"{a['device']}\n{a['link']}" for a in answers))
    for offset, place in ((-0.15, "device"), (0.15, "cloud")):
        points = [
            (devices.index(f"{a['device']}\n{a['link']}") + offset, a["timing"]["total_ms"])
            for a in answers
            if a["place"] == place
        ]
        if points:
            axes.plot(
                *zip(*points, strict=True), "o", ms=4, alpha=0.6, color=COLORS[place], label=place
            )
    axes.set_yscale("log")
    axes.set_xticks(range(len(devices)), devices)
    axes.set_ylabel("latency in ms")
    axes.set_title("Latency by device and place of answer")
    axes.legend(title="answered by")
    return _svg(figure)


def breakdown(answers: list[dict[str, Any]]) -> str:
    """Mean latency, split into its parts, by device and place of answer."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for answer in answers:
        groups.setdefault(f"{answer['device']} → {answer['place']}", []).append(answer["timing"])
    figure, axes = _figure(height=0.45 * len(groups) + 1.4)
    names = sorted(groups)
    left = [0.0] * len(names)
    for part in _PARTS:
        means = [sum(t[f"{part}_ms"] for t in groups[n]) / len(groups[n]) for n in names]
        axes.barh(names, means, left=left, color=COLORS[part], label=part)
        left = [a + b for a, b in zip(left, means, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel("mean latency in ms")
    axes.set_title("Where the time goes")
    axes.legend(ncols=5, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.25))
    return _svg(figure)


def air(by_device: dict[str, dict[str, int]]) -> str:
    """Bytes that crossed each device's link while the questions were asked."""
    figure, axes = _figure(height=0.5 * len(by_device) + 1.2)
    names = list(by_device)
    up = [by_device[n]["uplink"] / 1e3 for n in names]
    down = [by_device[n]["downlink"] / 1e3 for n in names]
    axes.barh(names, up, color=COLORS["uplink"], label="up")
    axes.barh(names, down, left=up, color=COLORS["downlink"], label="down")
    axes.invert_yaxis()
    axes.set_xlabel("kB on the air, all headers counted")
    axes.set_title("Bytes on the air")
    axes.legend()
    return _svg(figure)


def timeline(answers: list[dict[str, Any]]) -> str:
    """When each device was waiting for an answer, and from where it came."""
    devices = list(dict.fromkeys(a["device"] for a in answers))
    figure, axes = _figure(width=9.0, height=0.5 * len(devices) + 1.3)
    for answer in answers:
        span_s = answer["timing"]["total_ms"] / 1e3
        axes.barh(
            devices.index(answer["device"]),
            span_s,
            left=answer["run_s"] - span_s,
            height=0.6,
            color=COLORS[answer["place"]],
            alpha=1.0 if answer["correct"] else 0.35,
        )
    axes.set_yticks(range(len(devices)), devices)
    axes.invert_yaxis()
    axes.set_xlabel("seconds since the run began (pale: wrong answer)")
    axes.set_title("Timeline")
    return _svg(figure)


def telemetry(samples: list[dict[str, Any]]) -> str:
    """Each agent's share of a core over time."""
    figure, axes = _figure(width=9.0, height=2.6)
    lines: dict[str, list[tuple[float, float]]] = {}
    for event in samples:
        sample = event["sample"]
        lines.setdefault(sample["device_id"], []).append(
            (event["run_s"], sample.get("agent_cpu_percent", float("nan")))
        )
    for name, points in sorted(lines.items()):
        axes.plot(*zip(*points, strict=True), label=name)
    axes.set_xlabel("seconds since the run began")
    axes.set_ylabel("agent CPU in % of a core")
    axes.set_title("Telemetry")
    if lines:
        axes.legend()
    return _svg(figure)
