"""netctl's commands that touch nothing: what they print, and how they fail."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from netctl.cli import main

GOOD = "uplink: {rate: 4 Mbit/s, delay: 20 ms}\ndownlink: {rate: 8 Mbit/s, delay: 20 ms}\n"


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> object:
    main([*arguments, "--json"])
    return json.loads(capsys.readouterr().out)


def failed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    assert caught.value.code == 1
    return capsys.readouterr().err


def test_every_profile_names_its_source(capsys: pytest.CaptureFixture[str]) -> None:
    listed = told(capsys, "profiles")
    assert isinstance(listed, list)
    assert {"wifi-5-near", "lte-good", "nb-iot", "geo-satellite", "train"} <= {
        one["name"] for one in listed
    }
    assert all(one["source"] and one["basis"] for one in listed)


def test_a_plan_says_every_operation(tmp_path: Path) -> None:
    path = tmp_path / "link.yaml"
    path.write_text(GOOD)
    # In a process of its own: what this kernel can do is tried in a fork.
    command = [sys.executable, "-m", "netctl.cli", "plan", "--conditions", path, "--json"]
    shown = subprocess.run(
        [*command, "--backend", "userspace-packet"], capture_output=True, check=True
    )
    plan = json.loads(shown.stdout)
    assert isinstance(plan, dict)
    assert plan["backend"] == "userspace-packet"
    assert any("veth" in command for command in plan["plan"]["commands"])
    assert plan["plan"]["process"][:2] == ["netctl", "link"]


def test_lint_fails_where_it_warns(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "link.yaml"
    path.write_text(GOOD.replace("delay: 20 ms}\nd", "delay: 20 ms, mtu: 576 B}\nd"))
    with pytest.raises(SystemExit):
        main(["lint", "--conditions", str(path), "--json"])
    (finding,) = json.loads(capsys.readouterr().out)
    assert (finding["way"], finding["rule"]) == ("uplink", "mtu")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (GOOD.replace("4 Mbit/s", "4"), "1: uplink.rate: .*no unit"),
        (GOOD.replace("rate: 8", "rte: 8"), "2: downlink.rte"),
        (GOOD.replace("delay: 20 ms}\nd", "loss: 1 %, bursts: {share: 1 %, mean_packets: 2}}\nd"),
         "one way only"),
        ("profile: lte-godo\n", "there is no profile 'lte-godo'"),
        ("uplink: {}\n", "needs uplink and downlink"),
        (GOOD + "profile: lte-good\n", "in place of"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_by_line_and_field(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, says: str
) -> None:
    path = tmp_path / "link.yaml"
    path.write_text(text)
    error = failed(capsys, "lint", "--conditions", str(path))
    assert str(path) in error
    assert re.search(says, error), error


def test_a_table_of_rates_becomes_a_mahimahi_trace(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    table, trace, picture = (tmp_path / name for name in ("drive.csv", "drive.down", "drive.svg"))
    table.write_text("time_s,rate_mbps\n0,12\n1,6\n")
    main(["trace", "import", str(table), str(trace)])
    capsys.readouterr()
    shown = told(capsys, "trace", "show", str(trace))
    assert isinstance(shown, dict)
    assert shown["period_ms"] == 2000
    assert shown["mean_rate_bps"] == pytest.approx(9e6, rel=0.01)
    main(["trace", "plot", str(trace), str(picture)])
    assert picture.read_text().startswith("<svg")
