"""The agents that attacks take place among, as settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.agents import shipped_model
from benchmarks.attacks.attack import AgentSpec, Stage
from benchmarks.certificates import Authority
from benchmarks.runtime.llama_cpp_programs import free_port

PLAINTEXT = {"plaintext": True}
HEARTBEAT_S = 0.5
API_KEY = "a-key-for-attacks"


def merged(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with changes, section by section."""
    result = dict(settings)
    for field, value in changes.items():
        before = result.get(field)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            value = merged(before, value)
        result[field] = value
    return result


def board_settings(folder: Path, name: str = "board-a") -> dict[str, Any]:
    """A board alone, for applications on it."""
    return {
        "device_id": name,
        "listen": f"unix:{folder}/{name}.sock",
        "listen_security": PLAINTEXT,
        "model": {"path": shipped_model("mathematics"), "threads": 1, "context_tokens": 384},
    }


def lone_board(folder: Path, **changes: Any) -> Stage:
    """A board without a cloud."""
    settings = merged(board_settings(folder), changes)
    return Stage({"board-a": AgentSpec("device", settings)}, asked="board-a")


def board_with_http(folder: Path, **changes: Any) -> Stage:
    """A board without a cloud, that serves HTTP and wants a key."""
    port, key = free_port(), folder / "key"
    key.write_text(API_KEY, encoding="ascii")
    http = {
        "listen": f"127.0.0.1:{port}",
        "security": PLAINTEXT,
        "api_key_file": str(key),
    }
    settings = merged(board_settings(folder) | {"http": http}, changes)
    return Stage({"board-a": AgentSpec("device", settings)}, asked="board-a", ports={"http": port})


def cloud_settings(folder: Path, port: int, security: Mapping[str, Any]) -> dict[str, Any]:
    """A cloud with a model of its own."""
    return {
        "cloud_id": "cloud",
        "listen": f"127.0.0.1:{port}",
        "local_socket": f"{folder}/cloud.sock",
        "security": security,
        "model": {"path": shipped_model("mathematics"), "threads": 1, "context_tokens": 384},
        "heartbeat_interval_s": HEARTBEAT_S,
    }


def authority(folder: Path) -> Authority:
    """Certificates for a cloud, two boards, a coordinator and an operator."""
    made = Authority.make(folder / "certificates")
    made.issue("cloud", "cloud")
    for board in ("board-a", "board-b"):
        made.issue(board, "device")
    made.issue("coordinator", "coordinator")
    made.issue("operator", "operator")
    return made


def uplink_settings(certificates: Authority, name: str, port: int) -> dict[str, Any]:
    """Where a board finds the cloud."""
    return {
        "address": f"127.0.0.1:{port}",
        "security": certificates.settings(name),
        "backoff_initial_s": 0.05,
        "backoff_max_s": 0.3,
    }


def cloud_alone(folder: Path, **changes: Any) -> Stage:
    """A cloud whose boards have not come yet; mutual TLS."""
    certificates, port = authority(folder), free_port()
    settings = merged(cloud_settings(folder, port, certificates.settings("cloud")), changes)
    return Stage(
        {"cloud": AgentSpec("cloud", settings)},
        asked="cloud",
        authority=certificates,
        ports={"cloud": port},
    )


def fleet_of_one(
    folder: Path,
    *,
    asked: str = "cloud",
    threshold: float = 1.0,
    board: Mapping[str, Any] | None = None,
    cloud: Mapping[str, Any] | None = None,
) -> Stage:
    """A cloud and a registered board-a; mutual TLS. At threshold 1 the cloud answers everything."""
    alone = cloud_alone(folder, **(cloud or {}))
    assert alone.authority is not None
    port = alone.ports["cloud"]
    settings = board_settings(folder) | {
        "routing": {"threshold": threshold},
        "cloud": uplink_settings(alone.authority, "board-a", port),
    }
    return Stage(
        {**alone.agents, "board-a": AgentSpec("device", merged(settings, board or {}))},
        asked=asked,
        registered=("board-a",),
        # Two agents and a link work on a request to the board.
        rate_per_s=40.0 if asked == "board-a" else 100.0,
        authority=alone.authority,
        ports=alone.ports,
    )
