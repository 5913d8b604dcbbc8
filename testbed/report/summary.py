"""A run's figures, from its events alone."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from airloom.units import format_rate
from netctl.measure.statistics import wilson

Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """One group of answers."""

    group: str
    questions: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    sent_up: float
    median_ms: float
    p95_ms: float
    link_ms: float
    """Median time on the link of the answers that crossed it; 0 where none did."""
    message_bytes: int


def summarise(group: str, answers: list[Event], unanswered: int = 0) -> Row:
    """Summarise answers; an unanswered question counts as wrong."""
    total = len(answers) + unanswered
    right = wilson(sum(answer["correct"] for answer in answers), total)
    times_ms = [answer["timing"]["total_ms"] for answer in answers]
    crossed = [a["timing"] for a in answers if a["place"] == "cloud"]
    return Row(
        group=group,
        questions=total,
        accuracy=right.value,
        accuracy_low=right.low,
        accuracy_high=right.high,
        sent_up=len(crossed) / total,
        median_ms=statistics.median(times_ms) if times_ms else float("nan"),
        p95_ms=statistics.quantiles(times_ms, n=20)[-1] if len(times_ms) > 1 else float("nan"),
        link_ms=statistics.median(t["uplink_ms"] + t["downlink_ms"] for t in crossed)
        if crossed
        else 0.0,
        message_bytes=sum(t["uplink_bytes"] + t["downlink_bytes"] for t in crossed),
    )


def rows_by(events: Iterable[Event], key: Callable[[Event], str]) -> list[Row]:
    """One row for each value of `key`, in order of first appearance."""
    groups: dict[str, list[Event]] = {}
    for event in events:
        if event["event"] in ("answer", "unanswered"):
            groups.setdefault(key(event), []).append(event)
    rows = []
    for group, members in groups.items():
        answers = [event for event in members if event["event"] == "answer"]
        rows.append(summarise(group, answers, len(members) - len(answers)))
    return rows


def _right_alone(answer: Event) -> bool:
    """Whether the device itself was right, by the answer it set aside where the cloud answered."""
    if answer["place"] != "cloud":
        return bool(answer["correct"])
    return bool(answer["set_aside"].get("answer", "") == answer["expected"])


def against_cards(answers: list[Event], cards: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """What each model's card says of a domain, beside what this run saw of it.

    `cards` holds accuracy by domain for each model's SHA-256. A device's own answers include those
    it set aside; the cloud saw only the questions that devices were not sure of.
    """
    seen: dict[tuple[str, str, str, str], list[bool]] = {}
    for answer in answers:
        key = (answer["device"], answer["device_model_sha256"], answer["domain"], "all")
        seen.setdefault(key, []).append(_right_alone(answer))
        if answer["place"] == "cloud":
            key = ("cloud", answer["model_sha256"], answer["domain"], "sent up")
            seen.setdefault(key, []).append(answer["correct"])
    rows = []
    for (place, digest, domain, which), outcomes in seen.items():
        found = wilson(sum(outcomes), len(outcomes))
        says = cards.get(digest, {}).get(domain)
        rows.append(
            {
                "place": place,
                "domain": domain,
                "which": which,
                "questions": len(outcomes),
                "accuracy": found.value,
                "low": found.low,
                "high": found.high,
                "card": says,
            }
        )
    return sorted(rows, key=lambda row: (row["place"] == "cloud", row["place"], row["domain"]))


def by_condition(events: list[Event]) -> list[Row]:
    """For each device whose link changed: its answers by what the link then was."""
    links = {(e["device"], e["epoch"]): e for e in events if e["event"] == "link"}
    changing = {device for device, epoch in links if epoch > 1}
    answers = [e for e in events if e["event"] == "answer" and e["device"] in changing]

    def condition(answer: Event) -> str:
        ways = links[answer["device"], answer["link_epoch"]]["conditions"]
        up, down = (_written(ways[way]) for way in ("uplink", "downlink"))
        return f"{answer['device']}: up {up}; down {down}"

    return rows_by(answers, condition)


def _written(conditions: dict[str, Any]) -> str:
    if not conditions["up"]:
        return "nothing comes through"
    rate, delay_ms = format_rate(conditions["rate_bps"]), conditions["delay_ms"]
    return f"{rate}, {delay_ms:g} ms, loss {conditions['loss']:.2%}"


def summary(events: list[Event], cards: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """All figures of a run, ready for JSON."""
    measured = {e["device"]: e for e in events if e["event"] == "measured"}
    answers = [event for event in events if event["event"] == "answer"]
    return {
        "by_device": [
            asdict(row) for row in rows_by(events, lambda e: f"{e['device']} ({e['link']})")
        ],
        "by_condition": [asdict(row) for row in by_condition(events)],
        "by_place": [asdict(row) for row in rows_by(answers, lambda e: e["place"])],
        "by_domain": [asdict(row) for row in rows_by(events, lambda e: e["domain"])],
        "device_alone": [asdict(row) for row in device_alone(answers)],
        "air_bytes": {e["device"]: e["bytes"] for e in events if e["event"] == "air"},
        "links": [
            {key: e[key] for key in ("device", "kind", "attempt", "checks")}
            for e in measured.values()
        ],
        "cards": against_cards(answers, cards),
    }


def device_alone(answers: list[Event]) -> list[Row]:
    """What each device would have scored without the cloud, from the answers it set aside."""
    alone = [{**answer, "correct": _right_alone(answer)} for answer in answers]
    return rows_by(alone, lambda e: f"{e['device']} / {e['domain']}")
