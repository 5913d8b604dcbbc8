"""`netctl verify` certifies a link that is what was asked, and fails one that is not."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from bench import CLOUD, DEVICE, on_link
from measuring import TOO_BUSY, WITHIN_S, measure_until_told

from netctl.backends import BACKENDS
from netctl.backends.capabilities import probe
from netctl.conditions.link import DirectionConditions, LinkConditions
from netctl.conditions.loss import GilbertElliott

WORKING = [name for name, backend in BACKENDS.items() if backend.missing(probe()) is None]
LINK = LinkConditions(
    DirectionConditions(4_000_000, 20, loss_model=GilbertElliott.bursts(0.08, 4)),
    DirectionConditions(8_000_000, 10, duplicate=0.05),
)
ASKED = """
uplink: {rate: 4 Mbit/s, delay: 20 ms, bursts: {share: 8 %, mean_packets: 4}}
downlink: {rate: 8 Mbit/s, delay: 10 ms, duplicate: 5 %}
"""


def certificate(backend: str, asked: str, folder: Path, *more: str) -> dict[str, Any]:
    file = folder / "asked.yaml"
    file.write_text(asked)

    def use(_: object) -> dict[str, Any]:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        done = subprocess.run(
            [
                sys.executable, "-m", "netctl.cli", "verify", "--conditions", str(file), "--json",
                "--device", f"board/{DEVICE}", "--cloud", f"cloud/{CLOUD}", "--backend", backend,
                *more,
            ],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if TOO_BUSY in done.stderr:
            return {"inconclusive": done.stderr}
        assert not done.stderr, done.stderr
        statuses = {"as asked": 0, "not as asked": 1, "inconclusive": 3}
        found: dict[str, Any] = json.loads(done.stdout)
        assert statuses[found["outcome"]] == done.returncode
        return found

    result: dict[str, Any] = on_link(backend, LINK, folder / "result.json", use)
    return result


@pytest.mark.timeout(2 * WITHIN_S)
@pytest.mark.parametrize("backend", WORKING)
def test_a_right_link_is_certified(backend: str, tmp_path: Path) -> None:
    def measure() -> tuple[list[Any], float]:
        found = certificate(backend, ASKED, tmp_path)
        if "inconclusive" in found:
            return [found], math.inf
        assert found["backend"] == backend
        assert {v["quantity"] for v in found["verdicts"]} >= {"rate", "delay", "loss", "burst"}
        # What the sample cannot tell of shares comes with how long it would take.
        told = [v for v in found["verdicts"] if v["unit"] == "share" and not v["passed"]]
        assert all(v["outcome"] == "not as asked" or v["more_s"] > 0 for v in told)
        wrong = [
            v
            for v in found["verdicts"]
            if v["outcome"] == "not as asked" or (v["unit"] != "share" and not v["passed"])
        ]
        return wrong, found["late_ms"]

    measure_until_told(measure)


@pytest.mark.timeout(2 * WITHIN_S)
@pytest.mark.parametrize("backend", WORKING)
def test_another_link_than_asked_fails_by_quantity(backend: str, tmp_path: Path) -> None:
    asked = ASKED.replace("delay: 20 ms", "delay: 25 ms").replace(
        "duplicate: 5 %", "duplicate: 20 %"
    )
    expected = {("uplink", "delay"), ("downlink", "duplicates")}

    def measure() -> tuple[list[tuple[str, str]], float]:
        found = certificate(backend, asked, tmp_path)
        if "inconclusive" in found:
            return [("both", found["inconclusive"])], math.inf
        assert not found["passed"]
        wrong = {
            (v["way"], v["quantity"]) for v in found["verdicts"] if v["outcome"] == "not as asked"
        }
        return sorted(expected - wrong), found["late_ms"]

    measure_until_told(measure)


@pytest.mark.timeout(2 * WITHIN_S)
@pytest.mark.parametrize("backend", [name for name in WORKING if name != "netem"])
def test_iperf3_and_irtt_say_the_same(backend: str, tmp_path: Path) -> None:
    def near(verdict: dict[str, Any]) -> bool:
        """What a busy machine adds, and ways or units that are mixed up do not."""
        asked, measured = verdict["asked"], verdict["measured"]
        if verdict["unit"] == "share":
            # A hundred probes do not tell a share: they may not contradict it.
            return bool(verdict["outcome"] == "inconclusive")
        if verdict["unit"] == "ms":
            return bool(abs(measured - asked) <= 4)
        return bool(verdict["unit"] == "bit/s" and abs(measured / asked - 1) <= 0.1)

    # Each agrees once: a busy moment of this machine disturbs one or the other.
    seen: set[tuple[str, str]] = set()

    def measure() -> tuple[list[tuple[str, str]], float]:
        found = certificate(
            backend, ASKED, tmp_path, "--cross-check", "--probes=100", "--patience=0 s"
        )
        if "inconclusive" in found:
            return [("both", found["inconclusive"])], math.inf
        others = [v for v in found["verdicts"] if "(" in v["quantity"]]
        assert {v["quantity"] for v in others} == {"rate (iperf3)", "delay (irtt)", "loss (irtt)"}
        assert len(others) == 6
        seen.update((v["way"], v["quantity"]) for v in others if v["passed"] or near(v))
        return [
            (v["way"], v["quantity"]) for v in others if (v["way"], v["quantity"]) not in seen
        ], found["late_ms"]

    measure_until_told(measure)
