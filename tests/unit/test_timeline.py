"""What changes when: laps of a timeline, and what a course of a link says of them."""

import itertools
from pathlib import Path

import pytest

from airloom.errors import ConfigurationError
from airloom.settings_file import load_yaml
from netctl.conditions.profiles import profiles
from netctl.conditions.timeline import moments
from netctl.traces.course import LinkSettings

LINK = "uplink: {rate: 4 Mbit/s, delay: 20 ms, jitter: 5 ms}\ndownlink: {rate: 8 Mbit/s}\n"


def test_each_lap_begins_as_the_first_did(tmp_path: Path) -> None:
    path = tmp_path / "link.yaml"
    path.write_text(
        LINK + "timeline: [{at: 2 s, rate: 1 Mbit/s}, {at: 4 s, up: false}]\nperiod: 10 s\n"
    )
    course = load_yaml(path, LinkSettings).course()
    found = list(itertools.islice(moments(course.timeline, course.period_ms), 6))
    assert [at for at, _ in found] == [2000, 4000, 10_000, 12_000, 14_000, 20_000]
    assert found[2][1] == found[5][1] == course.first
    assert found[3][1] == found[0][1] != course.first


def test_a_timeline_that_says_how_a_lap_begins_is_left_as_it_is() -> None:
    train = profiles()["train"]
    assert train.timeline[0] == (0, train.conditions)
    assert train.timeline[-1][0] < (train.period_ms or 0)


def test_a_table_is_refused_where_a_timeline_would_be(tmp_path: Path) -> None:
    table, path = tmp_path / "fade.csv", tmp_path / "link.yaml"
    table.write_text("time_s,delay_ms\n0,20\n1,2\n")
    for changes in ("timeline: [{at: 1 s, delay: 2 ms}]", f"trace: {table}"):
        path.write_text(LINK + changes)
        with pytest.raises(ConfigurationError, match=r"jitter \(5\.0 ms\) is more than the delay"):
            load_yaml(path, LinkSettings)
