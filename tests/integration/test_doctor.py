"""`device-agent doctor` on this machine, and its choices on others."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from agents import MODELS, ROOT
from hypothesis import given
from hypothesis import strategies as st

from device_agent.config import ModelSettings
from device_agent.doctor import ThreadRate, choose_size, choose_threads, describe, inspect_board
from device_agent.engine.memory_estimate import ModelShape, estimate
from device_agent.sensors import BoardSensors


def doctor(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "device_agent.cli", "doctor", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_what_the_doctor_says_can_be_run() -> None:
    done = doctor("--json", str(MODELS["mathematics"]))
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    (model,) = said["models"]
    settings = ModelSettings.model_validate(model["settings"])
    assert settings.path == MODELS["mathematics"]
    assert 1 <= settings.threads <= said["board"]["physical_cores"]
    assert all(rate["decode"] > 0 for rate in model["rates"])
    assert model["need_bytes"]["total"] < said["board"]["memory_available_bytes"]


def test_the_doctor_names_what_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "no.gguf").write_text("no model")
    done = doctor(str(tmp_path / "no.gguf"))
    assert done.returncode == 1
    assert "not a GGUF file" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_throttled_board_is_told(tmp_path: Path) -> None:
    flags = tmp_path / "sys/devices/platform/soc/soc:firmware/get_throttled"
    flags.parent.mkdir(parents=True)
    flags.write_text("50005\n")
    board = inspect_board(BoardSensors(tmp_path))
    assert board.throttled == "under voltage, throttled"
    assert "throttled   under voltage" in describe(board, [])


@pytest.mark.parametrize(
    ("rates", "threads"),
    [
        ([(1, 100), (2, 60)], 1),
        ([(1, 100), (2, 103), (4, 180)], 4),
        ([(1, 100), (2, 190), (4, 195)], 2),
    ],
)
def test_a_thread_must_be_worth_it(rates: list[tuple[int, float]], threads: int) -> None:
    measured = [ThreadRate(n, 1000, decode) for n, decode in rates]
    assert choose_threads(measured).threads == threads


QWEN = ModelShape(
    file_bytes=350 << 20,
    layers=24,
    width=896,
    feed_forward=4864,
    vocabulary=151_936,
    key_values=256,
    state=0,
    trained_context_tokens=32_768,
)


@given(st.integers(1 << 20, 16 << 30))
def test_what_is_chosen_fits_and_more_is_never_less(available: int) -> None:
    chosen = choose_size(QWEN, available)
    if chosen is None:
        least = estimate(
            QWEN, parallel=1, context_tokens=512, batch_tokens=512, key_value_type="q8_0", outputs=1,
            embeddings=True,
        )  # fmt: skip
        assert least.total > available
        return
    size, need = chosen
    assert need.total <= available
    more = choose_size(QWEN, 2 * available)
    assert more is not None
    assert more[0]["context_tokens"] >= size["context_tokens"]
