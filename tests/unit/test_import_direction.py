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
ROOMS = {
    "conditions": set(),
    "traces": {"conditions"},
    "radio": {"conditions", "traces"},
    "measure": {"conditions"},
    "backends": {"conditions", "traces"},
    "interface": {"conditions", "traces", "backends"},
    "daemon": {"conditions", "backends", "interface"},
}
"""Of netctl, each with the rooms that it may import; the command line may import all."""


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


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_of_netctl_imports_only_what_stands_below_it(room: str) -> None:
    for path in (ROOT / "netctl" / room).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("netctl."):
                other = (node.module or "").split(".")[1]
                allowed = {*ROOMS[room], room, "linux", "json_data"}
                assert other in allowed, f"{path.relative_to(ROOT)} imports netctl.{other}"


def test_every_module_of_netctl_is_in_a_room() -> None:
    top = {path.stem for path in (ROOT / "netctl").glob("*.py")}
    assert top == {"__init__", "linux", "json_data"}


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


@pytest.mark.parametrize(
    "command",
    ["profiles", "lint --profile lte-good", "plan --profile lte-good --backend userspace-packet",
     "shape --help", "serve --help", "verify --help"],
)  # fmt: skip
def test_netctl_works_where_only_what_pip_installs_without_extras_is(command: str) -> None:
    extras = (
        "llama_cpp", "numpy", "fastapi", "httptools", "uvicorn", "jinja2", "prometheus_client",
        "zmq", "openai", "opentelemetry.sdk", "torch", "matplotlib", "rich", "scapy", "cryptography",
    )  # fmt: skip
    code = (
        # A module that is None in sys.modules cannot be imported.
        f"import sys; sys.modules.update(dict.fromkeys({extras}))\n"
        "import netctl.daemon.server, netctl.measure.certificate, netctl.interface.hold\n"
        f"from netctl.cli import main; main({command.split()})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_agents_load_only_what_they_serve() -> None:
    """HTTP and telemetry are for those who ask for them: a board of 100 MiB keeps 16 of them."""
    program = (
        "import sys, device_agent.agent, cloud_agent.agent\n"
        "print(sorted({'fastapi', 'starlette', 'uvicorn', 'zmq'} & sys.modules.keys()))"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
