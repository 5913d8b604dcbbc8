"""The file with the number of the link conditions in force is somebody else's."""

from pathlib import Path

import pytest

from device_agent.cascade import read_link_epoch


@pytest.mark.parametrize(
    ("content", "number"),
    [("7\n", 7), ("", 0), ("half wri", 0), ("-3", 0), ("9" * 30, 0), ("\N{SNOWMAN}", 0)],
)
def test_what_is_no_number_counts_as_none(tmp_path: Path, content: str, number: int) -> None:
    path = tmp_path / "epoch"
    path.write_text(content, encoding="utf-8")
    assert read_link_epoch(path) == number


def test_no_file_is_no_number(tmp_path: Path) -> None:
    assert read_link_epoch(tmp_path / "epoch") == read_link_epoch(tmp_path) == 0
