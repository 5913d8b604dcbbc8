"""A report's figures come from events alone."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from netctl.conditions.link import DirectionConditions
from netctl.conditions.loss import GilbertElliott
from netctl.measure.prober import DirectionMeasurement
from netctl.measure.statistics import Estimate, wilson
from testbed.fidelity import check_direction
from testbed.records import EventLog, read_events, write_atomically
from testbed.report.summary import against_cards, device_alone, rows_by, summary


def answer(device: str, *, own: bool, cloud: bool | None = None, **changes: Any) -> dict[str, Any]:
    """A device's answer, or (where `cloud` says whether that was right) the cloud's in its stead."""
    up = cloud is not None
    return {
        "event": "answer",
        "device": device,
        "link": "LTE",
        "domain": "mathematics",
        "level": 1,
        "expected": "7",
        "correct": cloud if up else own,
        "place": "cloud" if up else "device",
        "set_aside": {"answer": "7" if own else "8"} if up else {},
        "model_sha256": "c" * 64 if up else "d" * 64,
        "device_model_sha256": "d" * 64,
        "timing": {
            "total_ms": 100.0,
            "uplink_ms": 20.0 if up else 0.0,
            "downlink_ms": 10.0 if up else 0.0,
            "uplink_bytes": 300 if up else 0,
            "downlink_bytes": 700 if up else 0,
        },
        **changes,
    }


EVENTS = [
    answer("a", own=True),
    answer("a", own=False, cloud=True),
    answer("a", own=True, cloud=False),
    answer("b", own=False),
    {"event": "unanswered", "device": "b", "link": "LTE", "domain": "mathematics", "level": 1},
]


def test_an_unanswered_question_counts_as_wrong() -> None:
    a, b = rows_by(EVENTS, lambda e: e["device"])
    assert (a.questions, a.accuracy) == (3, pytest.approx(2 / 3))
    assert (b.questions, b.accuracy) == (2, 0.0)
    assert a.sent_up == pytest.approx(2 / 3)
    assert a.link_ms == 30.0
    assert a.message_bytes == 2000
    assert b.link_ms == 0.0


def test_what_a_device_set_aside_tells_what_it_scores_alone() -> None:
    answers = [event for event in EVENTS if event["event"] == "answer"]
    a, b = device_alone(answers)
    assert a.accuracy == pytest.approx(2 / 3)
    assert b.accuracy == 0.0


def test_each_model_stands_beside_its_own_card() -> None:
    answers = [event for event in EVENTS if event["event"] == "answer"]
    rows = against_cards(answers, {"c" * 64: {"mathematics": 0.8}, "e" * 64: {"symbolic": 1.0}})
    by_place = {row["place"]: row for row in rows}
    assert by_place["cloud"]["card"] == 0.8
    assert by_place["cloud"]["questions"] == 2
    assert by_place["cloud"]["accuracy"] == 0.5
    assert by_place["a"]["card"] is None
    assert by_place["a"]["questions"] == 3


def test_the_last_measurement_of_a_link_stands() -> None:
    measured = [
        {"event": "measured", "device": "a", "kind": "LTE", "attempt": n, "checks": [n]}
        for n in (1, 2)
    ]
    assert summary([*EVENTS, *measured], {})["links"] == [
        {"device": "a", "kind": "LTE", "attempt": 2, "checks": [2]}
    ]


def told(value: float, half: float, samples: int = 1000) -> Estimate:
    return Estimate(value, value - half, value + half, samples)


def measurement(
    rate: Estimate | None, delay: Estimate, loss: Estimate, mean: Estimate | None = None
) -> dict[str, Any]:
    """As `netctl measure` prints it."""
    nothing = Estimate(0.0, 0.0, 0.0, 1000)
    found = DirectionMeasurement(
        rate, "too busy" if rate is None else None, delay, 0.0, loss, 0, mean or delay, 0.0, None,
        nothing, nothing, delay_probe_s=0.02, loss_probe_s=0.002, rate_s=1.0,
    )  # fmt: skip
    written: dict[str, Any] = json.loads(json.dumps(asdict(found)))
    return written


RATE, DELAY, LOSS = told(10e6, 20e3), told(20.4, 0.2), wilson(50, 5000)


@pytest.mark.parametrize(
    ("rate", "delay", "loss", "outcomes"),
    [
        (RATE, DELAY, LOSS, {}),
        (told(9.4e6, 20e3), DELAY, LOSS, {"rate": "not as asked"}),
        (told(9.8e6, 600e3), DELAY, LOSS, {"rate": "inconclusive"}),
        (None, DELAY, LOSS, {"rate": "inconclusive"}),
        (RATE, told(23.1, 0.2), LOSS, {"delay": "not as asked"}),
        (RATE, told(21, 5), LOSS, {"delay": "inconclusive"}),
        (RATE, DELAY, wilson(150, 5000), {"loss": "not as asked"}),
        (RATE, DELAY, wilson(2, 200), {"loss": "inconclusive"}),
    ],
)
def test_a_direction_is_judged_quantity_by_quantity(
    rate: Estimate | None, delay: Estimate, loss: Estimate, outcomes: dict[str, str]
) -> None:
    asked = DirectionConditions(10_000_000, 20, 0, 0.01)
    checks = check_direction("uplink", asked, measurement(rate, delay, loss))
    wanted = {name: outcomes.get(name, "as asked") for name in ("rate", "delay", "loss")}
    assert {check.quantity: check.outcome for check in checks} == wanted
    for check in checks:
        assert check.ok == (check.outcome != "not as asked")
        if check.outcome == "inconclusive" and "not told" not in check.measured:
            assert check.more_s is not None
            assert "inconclusive before" in check.band


def test_a_skewed_delay_is_checked_by_its_mean_and_bursts_by_fewer_samples() -> None:
    asked = DirectionConditions(
        None, 40, 20, distribution="pareto", loss_model=GilbertElliott.bursts(0.05, 10)
    )
    mean, median = told(asked.mean_delay_ms + 1, 1.0), told(33.0, 1.0)
    found = measurement(None, median, wilson(78, 1200), mean)
    assert all(check.ok for check in check_direction("uplink", asked, found))
    found = measurement(None, median, wilson(360, 1200), mean)
    checks = check_direction("uplink", asked, found)
    assert [check.quantity for check in checks if not check.ok] == ["loss"]


def test_a_line_cut_off_by_a_kill_is_left_out(tmp_path: Path) -> None:
    with EventLog(tmp_path) as log:
        log.write("started", scenario="s")
        log.write("answer", device="a")
    path = tmp_path / "events.jsonl"
    text = path.read_text(encoding="utf-8")
    path.write_text(text[:-10], encoding="utf-8")
    assert [event["event"] for event in read_events(tmp_path)] == ["started"]


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "summary.json"
    write_atomically(target, json.dumps({"old": 1}))

    with pytest.raises(TypeError):
        write_atomically(target, 5)  # type: ignore[arg-type]
    assert json.loads(target.read_text()) == {"old": 1}
