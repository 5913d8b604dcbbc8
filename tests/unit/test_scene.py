"""A scene of cells and stations, and the traces that links can follow."""

from pathlib import Path

import pytest

from airloom.errors import ConfigurationError
from airloom.settings_file import load_yaml
from netctl.radio.scene import Scene, traces
from netctl.traces.course import LinkSettings
from netctl.traces.files import read_steps, write_steps

ROOT = Path(__file__).parents[2]
SCENE = ROOT / "scenarios/drive.scene.yaml"


def test_a_station_that_drives_away_is_slower_between_the_cells_and_hands_over() -> None:
    found = traces(load_yaml(SCENE, Scene))
    assert found == traces(load_yaml(SCENE, Scene)), "a seed makes it what it is"
    driving = [step.rate_bps or 0.0 for step in found["driving"].steps]
    assert len(driving) == 120
    near, between, far = driving[:20], driving[50:70], driving[-20:]
    assert sum(between) < 0.7 * min(sum(near), sum(far))
    parked = found["parked"].steps
    # What it does not want it does not take; a transmission more for each error.
    assert max(step.rate_bps or 0 for step in parked) <= 5e6
    assert all((step.delay_ms or 0) >= 15 for step in parked)


def test_stations_of_one_cell_compete() -> None:
    scene = load_yaml(SCENE, Scene)
    alone = traces(scene.model_copy(update={"stations": scene.stations[1:]}))["driving"]
    beside = traces(scene)["driving"]
    assert sum(s.rate_bps or 0 for s in beside.steps) < sum(s.rate_bps or 0 for s in alone.steps)


def test_a_trace_is_written_as_it_is_read_and_a_link_follows_it(tmp_path: Path) -> None:
    trace = traces(load_yaml(SCENE, Scene))["parked"]
    file = tmp_path / "parked.csv"
    write_steps(trace, file)
    again = read_steps(file)
    assert again.period_ms == trace.period_ms
    for one, other in zip(again.steps, trace.steps, strict=True):
        assert one.rate_bps == pytest.approx(other.rate_bps, rel=1e-9)
        assert one.delay_ms == pytest.approx(other.delay_ms, rel=1e-9)
    link = LinkSettings.model_validate(
        {"uplink": {"loss": "5 %"}, "downlink": {"jitter": "1 ms", "delay": "9 ms"}, "trace": file}
    )
    course = link.course()
    first, last = trace.steps[0], trace.steps[-1]
    assert course.first.uplink.rate_bps == round(first.rate_bps or 0)
    assert course.first.downlink.jitter_ms == 1
    assert len(course.timeline) == len(trace.steps)
    assert course.timeline[-2][1].uplink.delay_ms == pytest.approx(last.delay_ms)
    # And again from the beginning.
    assert course.timeline[-1] == (60_000, course.first)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stations": [{"name": "a"}]}, "one of position, waypoints, random, recorded"),
        ({"stations": [{"name": "a", "position": [0, 0]}] * 2}, "two stations are called 'a'"),
        ({"duration": "100 ms"}, "two steps at least"),
        ({"cells": [{"name": "c", "position": [0, 0], "power": 30}]}, "has no unit"),
        (
            {"stations": [{"name": "a", "recorded": [["1 s", [0, 0]], ["1 s", [1, 1]]]}]},
            "times increase",
        ),
    ],
)
def test_an_impossible_scene_is_refused(change: dict[str, object], words: str) -> None:
    good = load_yaml(SCENE, Scene).model_dump()
    quantities = {"duration": "60 s", "step": "500 ms", "delay": "15 ms", "handover_gap": "50 ms"}
    cells = [{"name": "c", "position": [0, 0]}]
    stations = [{"name": "s", "position": [1, 0]}]
    scene = {**good, **quantities, "cells": cells, "stations": stations, **change}
    with pytest.raises(ValueError, match=words):
        Scene.model_validate(scene)


def test_a_trace_that_begins_dead_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "dead.csv"
    file.write_text("time_s,rate_mbps\n0,0\n1,5\n")
    with pytest.raises(ConfigurationError, match=r"dead\.csv: it begins with a dead zone"):
        LinkSettings.model_validate({"uplink": {}, "downlink": {}, "trace": file})
