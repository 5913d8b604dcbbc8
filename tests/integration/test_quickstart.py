"""Scenarios run as a user would run them, and nothing is left behind."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from agents import MODELS, PATIENCE_S, ROOT
from measuring import WITHIN_S, measure_until_told

from testbed.records import read_events

TESTBED = Path(sys.executable).parent / "testbed"
NOBODY = 65534


def scenario(folder: Path, count: int = 6, **changes: object) -> Path:
    """Write a small scenario: the quickstart's links, fewer questions."""
    data = yaml.safe_load((ROOT / "scenarios/quickstart.yaml").read_text(encoding="utf-8"))
    data["questions"]["count"] = count
    data["probes"] = 200
    data["cloud"]["model"]["path"] = str(MODELS["cloud"])
    for device, model in zip(
        data["devices"], ("mathematics", "knowledge", "symbolic"), strict=True
    ):
        device["model"]["path"] = str(MODELS[model])
    data |= changes
    path = folder / "scenario.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return path


def run_testbed(
    *arguments: str | Path, timeout_s: float = PATIENCE_S
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [TESTBED, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
        cwd=ROOT,
    )


def run_until(moment: str, path: Path, run: Path) -> subprocess.Popen[str]:
    """Start a run and return as soon as a line of its progress begins with `moment`."""
    process = subprocess.Popen(
        [TESTBED, "run", path, "--out", run],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(moment):
            return process
    raise AssertionError(f"the run ended before {moment!r}: {process.communicate()[1]}")


def processes_naming(text: str) -> list[str]:
    """The command lines of live processes that mention a text."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = " ".join(process.info["cmdline"] or [])
        if text in line and process.pid != os.getpid() and "pytest" not in line:
            found.append(line)
    return found


def interfaces() -> set[str]:
    return set(psutil.net_if_stats())


def check_run(folder: Path, count: int) -> list[dict[str, object]]:
    events = read_events(folder)
    answers = [event for event in events if event["event"] == "answer"]
    assert len(answers) == count
    assert {event["device"] for event in answers} == {"math-wifi", "know-lte", "symb-edge"}
    for name in ("resolved.json", "summary.json", "report.html", "events.jsonl"):
        assert (folder / name).stat().st_size > 500
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") >= 6
    assert not re.search(r"""(src|href)=["']https?://""", page), "the page must be self-contained"
    return events


def test_a_scenario_runs_and_reports(tmp_path: Path) -> None:
    before = interfaces()
    run = tmp_path / "run"
    done = run_testbed("run", scenario(tmp_path, count=12), "--out", run)
    assert done.returncode == 0, done.stdout + done.stderr
    assert str(run / "report.html") in done.stdout.replace("\n", "")
    events = check_run(run, 12)
    kinds = {event["event"] for event in events}
    assert {"started", "link", "measured", "answer", "telemetry", "air", "stopped"} <= kinds
    resolved = json.loads((run / "resolved.json").read_text())
    assert all(len(digest) == 64 for digest in resolved["models"].values())
    assert interfaces() == before
    assert processes_naming(str(run)) == []


@pytest.mark.timeout(2 * WITHIN_S)
def test_links_are_as_asked(tmp_path: Path) -> None:
    path = scenario(tmp_path, count=3)
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    for direction in ("uplink", "downlink"):
        # What it can still fill then: no rate can be told otherwise.
        data["devices"][0]["link"][direction]["rate"] = "20 Mbit/s"
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    runs = itertools.count()

    def measure() -> tuple[list[Any], float]:
        run = tmp_path / f"run-{next(runs)}"
        done = run_testbed("run", path, "--out", run)
        assert done.returncode == 0, done.stdout + done.stderr
        measured: list[Any] = [e for e in read_events(run) if e["event"] == "measured"]
        checks = [check for event in measured for check in event["checks"]]
        assert {check["quantity"] for check in checks} >= {"rate", "delay", "loss"}
        late_ms = max(way["late_ms"] for event in measured for way in event["result"].values())
        return [c for c in checks if c["quantity"] != "loss" and not c["ok"]], late_ms

    measure_until_told(measure)


def test_links_change_while_questions_are_asked(tmp_path: Path) -> None:
    path = scenario(tmp_path, count=9)
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    # At once, and again and again. What holds the boards until then is the air: each question of the
    # last one goes to the cloud, and takes 600 ms there and back, however fast the boards are.
    moments = [{"at": "0 ms", "delay": "30 ms"}, {"at": "300 ms", "delay": "5 ms", "up": True}]
    data["devices"][0]["link"] |= {"timeline": moments, "period": "600 ms"}
    data["devices"][1]["link"] = {"profile": "train"}
    table = tmp_path / "table.csv"
    table.write_text("time_ms,rate_mbps,delay_ms\n0,5,300\n200,2,300\n", encoding="utf-8")
    data["devices"][2]["link"] |= {"trace": table.name}
    data["devices"][2]["routing"]["threshold"] = 1.0
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    shown = run_testbed("run", "--dry-run", path)
    assert "at 0.3 s of asking, again after each 0.6 s:" in shown.stdout
    run = tmp_path / "run"
    done = run_testbed("run", path, "--out", run)
    assert done.returncode == 0, done.stdout + done.stderr
    events = check_run(run, 9)
    changes = [e for e in events if e["event"] == "link" and e["device"] == "math-wifi"]
    assert [e["epoch"] for e in changes] == list(range(1, len(changes) + 1))
    assert len(changes) >= 2
    assert all(e["late_ms"] >= 0 for e in changes[1:])  # type: ignore[operator]
    delays_ms = [e["conditions"]["uplink"]["delay_ms"] for e in changes]  # type: ignore[index]
    assert delays_ms[:2] == [3, 30]
    traced = [
        e["conditions"] for e in events if e["event"] == "link" and e["device"] == "symb-edge"
    ]
    rates = [one["uplink"]["rate_bps"] for one in traced]  # type: ignore[index]
    assert rates[:2] == [5_000_000, 2_000_000]
    epochs = {e["link_epoch"] for e in events if e["event"] == "answer"}
    assert epochs - {1}, "answers know under which conditions they were given"
    assert "math-wifi: up 40 Mbit/s, 30 ms, loss 0.10%" in (run / "report.html").read_text()


def as_nobody() -> list[str]:
    """A command prefix that gives up root; what lies in root's own home stays readable."""
    if os.geteuid() != 0:
        return []
    lines = ["set -e"]
    for needed in dict.fromkeys((sys.base_prefix, str(ROOT))):
        closed = [p for p in reversed(Path(needed).parents) if not p.stat().st_mode & 0o001]
        if closed:
            lines += [
                "spare=$(mktemp -d)",
                f"mount --bind {needed} $spare",
                f"mount -t tmpfs -o mode=755 none {closed[0]}",
                f"mkdir -p {needed}",
                f"mount --bind $spare {needed}",
            ]
    lines.append(f'exec setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups "$@"')
    return ["unshare", "--mount", "sh", "-c", "\n".join(lines), "sh"]


def test_a_scenario_runs_without_root() -> None:
    folder = Path(tempfile.mkdtemp(prefix="airloom-nobody-", dir="/tmp"))
    try:
        path = scenario(folder)
        if os.geteuid() == 0:
            os.chown(folder, NOBODY, NOBODY)
        done = subprocess.run(
            [*as_nobody(), TESTBED, "run", path, "--out", folder / "run"],
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
            cwd=folder,
            env={"PATH": os.environ["PATH"], "HOME": str(folder)},
        )
        assert done.returncode == 0, done.stdout + done.stderr
        started = check_run(folder / "run", 6)[0]
        assert started["as_root"] is False
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("moment", ["building", "measuring", "starting", "asking"])
def test_killing_the_runner_leaves_nothing(tmp_path: Path, moment: str) -> None:
    before = interfaces()
    run = tmp_path / "run"
    process = run_until(moment, scenario(tmp_path, count=30), run)
    process.kill()
    process.wait(timeout=PATIENCE_S)
    deadline_s = time.monotonic() + PATIENCE_S
    while processes_naming(str(run)) or processes_naming("netctl.cli link"):
        assert time.monotonic() < deadline_s, processes_naming(str(run))
        time.sleep(0.05)
    assert interfaces() == before
    assert not list(Path("/run/netns").glob("math-wifi"))


def test_killing_an_agent_is_reported_and_the_run_ends(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = run_until("[  1/", scenario(tmp_path, count=60), run)
    for victim in psutil.process_iter(["cmdline"]):
        if (victim.info["cmdline"] or [])[-2:] == ["run", str(run / "know-lte.yaml")]:
            victim.kill()
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert "testbed: know-lte ended with status -9" in errors
    assert read_events(run)[-1]["event"] == "failed"
    assert processes_naming(str(run)) == []


def test_an_interrupt_ends_a_run_in_good_order(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = run_until("[  3/", scenario(tmp_path, count=60), run)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert "interrupted; what had happened by then is in" in errors
    events = read_events(run)
    assert events[-1]["event"] == "interrupted"
    assert sum(event["event"] == "answer" for event in events) >= 3


def test_dry_run_prints_the_operations_and_changes_nothing(tmp_path: Path) -> None:
    before = interfaces()
    done = run_testbed("run", "--dry-run", scenario(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "ip netns add math-wifi" in done.stdout
    assert "--seed 7000" in done.stdout
    assert re.search(r"symb-edge.*\d+\.\d ms", done.stdout)
    assert interfaces() == before


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("delay: 3 ms", "delay: 3", r"scenario\.yaml:\d+: devices\.0\.link\.uplink\.delay: .*unit"),
        (
            "cloud.Q8_0.gguf",
            "none.gguf",
            r"scenario\.yaml: cloud\.model\.path: there is no model file",
        ),
        ("name: quickstart", "nmae: quickstart", r"scenario\.yaml:\d+: name: Field required"),
        ("seed: 7", "seed: 7\nbackend: magic", r"scenario\.yaml:\d+: backend: .*'auto'"),
    ],
)
def test_a_bad_scenario_is_one_clear_line(tmp_path: Path, old: str, new: str, says: str) -> None:
    path = scenario(tmp_path)
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    done = run_testbed("run", path, "--out", tmp_path / "run")
    assert done.returncode == 1
    assert re.fullmatch(rf"testbed: .*{says}.*\n", done.stderr), done.stderr
    assert not (tmp_path / "run").exists()


def test_a_truncated_model_is_named(tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(MODELS["cloud"].read_bytes()[:100_000])
    path = scenario(tmp_path, cloud={"model": {"path": str(cut), "threads": 1}})
    done = run_testbed("run", path, "--out", tmp_path / "run")
    assert done.returncode == 1
    assert "cut.gguf" in done.stderr
    assert "cannot be loaded" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_folder_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    done = run_testbed("run", scenario(tmp_path), "--out", tmp_path / "run")
    assert done.returncode == 1
    assert "exists already" in done.stderr
