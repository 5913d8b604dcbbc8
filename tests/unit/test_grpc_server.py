"""Whose socket is whose, and how calls are ended."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import grpc
import pytest

from airloom.errors import ConfigurationError
from airloom.grpc_server import GrpcServer, ServerLimits
from airloom.security import TransportSecurity

PLAINTEXT = TransportSecurity(plaintext=True)


async def test_a_living_processs_socket_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    first = GrpcServer(f"unix:{path}", PLAINTEXT, ())
    await first.start()
    with pytest.raises(ConfigurationError, match=r"agent\.sock: a running process does already"):
        GrpcServer(f"unix:{path}", PLAINTEXT, ())
    second = GrpcServer(f"unix:{tmp_path}/another.sock", PLAINTEXT, ())
    with pytest.raises(ConfigurationError, match=r"agent\.sock: a running process does already"):
        second.listen_locally(str(path))
    # The first still answers.
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        await channel.channel_ready()
    await first.server.stop(0)
    await second.server.stop(0)


async def test_a_killed_processs_socket_is_taken_and_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    server = GrpcServer(f"unix:{path}", PLAINTEXT, ())
    await server.start()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        await channel.channel_ready()
    await server.server.stop(0)


async def test_what_is_no_socket_stays(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="is there and is no socket"):
        GrpcServer(f"unix:{path}", PLAINTEXT, ())
    assert path.read_text(encoding="utf-8") == "mine"


async def test_connections_over_the_limit_are_closed() -> None:
    limits = ServerLimits(connections=1)
    server = GrpcServer("127.0.0.1:0", PLAINTEXT, (), limits)
    port = server.server.add_insecure_port("127.0.0.1:0")
    await server.start()
    with socket.create_connection(("127.0.0.1", port)) as first:
        first.settimeout(20)
        # HTTP/2's settings: this one is served.
        assert first.recv(9)
        with socket.create_connection(("127.0.0.1", port)) as second:
            second.settimeout(20)
            assert second.recv(9) == b""
    await server.server.stop(0)
