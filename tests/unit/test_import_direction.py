"""Imports go down only: protos ← airloom ← netctl, collaboration ← the agents ← learning ← testbed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ALLOWED = {
    "protos": set(),
    "airloom": {"protos"},
    "netctl": {"protos", "airloom"},
    "collaboration": {"protos", "airloom"},
    "device_agent": {"protos", "airloom", "collaboration"},
    "cloud_agent": {"protos", "airloom", "collaboration", "device_agent"},
    "learning": {"protos", "airloom", "collaboration", "device_agent", "cloud_agent"},
}
ALLOWED["testbed"] = {*ALLOWED}


def imported_packages(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("package", ALLOWED)
def test_a_package_imports_only_what_stands_below_it(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        foreign = (imported_packages(path) & ALLOWED.keys()) - ALLOWED[package] - {package}
        assert not foreign, f"{path.relative_to(ROOT)} imports {sorted(foreign)}"


def test_only_learning_imports_torch() -> None:
    for package in ALLOWED.keys() - {"learning"}:
        for path in (ROOT / package).rglob("*.py"):
            assert "torch" not in imported_packages(path), path


@pytest.mark.parametrize("program", ["device_agent.cli", "cloud_agent.cli", "netctl.cli"])
def test_a_boards_programs_load_without_the_extras(program: str) -> None:
    extras = ("torch", "matplotlib", "rich", "sentencepiece", "gguf", "cryptography")
    code = f"import sys; import {program}; print([m for m in {extras} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
