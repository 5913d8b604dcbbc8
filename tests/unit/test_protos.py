import shutil
import subprocess
import sys
from pathlib import Path

from protos.generate import HERE, generate

ROOT = Path(__file__).parents[2]
BUF = Path(sys.executable).parent / "buf"


def buf(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([BUF, *arguments], cwd=cwd, capture_output=True, text=True, check=False)


def test_the_protos_are_lint_clean() -> None:
    done = buf("lint")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_protos_break_nothing_that_was_released() -> None:
    done = buf("breaking", "--against", "protos/released.binpb")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_breaking_change_is_detected(tmp_path: Path) -> None:
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    shutil.copytree(ROOT / "protos/airloom", tmp_path / "protos/airloom")
    changed = tmp_path / "protos/airloom/v1/task.proto"
    text = changed.read_text(encoding="utf-8")
    changed.write_text(
        text.replace("double uplink_ms = 2;", "int64 uplink_us = 2;"), encoding="utf-8"
    )
    done = buf("breaking", "--against", str(ROOT / "protos/released.binpb"), cwd=tmp_path)
    assert done.returncode != 0
    assert "Timing" in done.stdout


def test_the_generated_code_is_what_the_protos_say(tmp_path: Path) -> None:
    fresh = {p.relative_to(tmp_path): p.read_text() for p in generate(tmp_path)}
    assert fresh
    for name, text in fresh.items():
        assert (HERE / name).read_text() == text, f"{name}: run `make protos`"
