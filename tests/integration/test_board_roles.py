"""What a link daemon lets each identity do, over mutual TLS: only an operator changes a board's links."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from agents import free_port

from airloom.grpc_server import GrpcServer
from airloom.security import TransportSecurity, open_channel
from netctl.daemon.server import BoardService
from netctl.daemon.settings import DaemonSettings
from protos.airloom.v1 import board_pb2, board_pb2_grpc

sys.path.insert(0, str(Path(__file__).parents[1]))
from identities import Identities

READING = ("ReadClock", "ShowInterface")
CHANGING = ("Hold", "Restore")
REQUESTS: dict[str, Any] = {
    "ReadClock": board_pb2.ReadClockRequest(),
    # There is no such interface: whoever is let in is told so.
    "ShowInterface": board_pb2.ShowInterfaceRequest(interface="none9"),
    "Restore": board_pb2.RestoreRequest(),
}


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> Identities:
    return Identities(tmp_path_factory.mktemp("identities"))


async def serve(security: dict[str, Any]) -> tuple[GrpcServer, str]:
    settings = DaemonSettings.model_validate(
        {"listen": f"127.0.0.1:{free_port()}", "security": security, "interfaces": ["air9"]}
    )
    server = GrpcServer(settings.listen, settings.security, [])
    board_pb2_grpc.add_BoardServiceServicer_to_server(BoardService(settings), server.server)
    await server.start()
    return server, settings.listen


@pytest.fixture
async def address(identities: Identities) -> AsyncIterator[str]:
    server, address = await serve(identities.files("board-a"))
    yield address
    await server.stop()


async def call(address: str, security: dict[str, Any], method: str) -> grpc.StatusCode:
    """Call a method; return the status that it ended with."""
    async with open_channel(address, TransportSecurity.model_validate(security)) as channel:
        stub: Any = board_pb2_grpc.BoardServiceStub(channel)
        try:
            if method == "Hold":
                take = board_pb2.TakeInterface(interface="none9", lease_s=5)
                await stub.Hold(iter([board_pb2.HoldRequest(take=take)]), timeout=20).read()
            else:
                await getattr(stub, method)(REQUESTS[method], timeout=20)
        except grpc.aio.AioRpcError as error:
            return error.code()
    return grpc.StatusCode.OK


async def statuses(address: str, security: dict[str, Any], methods: tuple[str, ...]) -> set[Any]:
    return set(await asyncio.gather(*(call(address, security, method) for method in methods)))


DENIED = {grpc.StatusCode.PERMISSION_DENIED}


@pytest.mark.parametrize("name", ["board-a", "board-b", "cloud"])
async def test_a_device_may_neither_read_nor_change(
    address: str, identities: Identities, name: str
) -> None:
    assert await statuses(address, identities.files(name), READING + CHANGING) == DENIED


async def test_a_coordinator_reads_and_changes_nothing(
    address: str, identities: Identities
) -> None:
    security = identities.files("coordinator")
    assert not await statuses(address, security, READING) & DENIED
    assert await statuses(address, security, CHANGING) == DENIED


async def test_an_operator_does_all(address: str, identities: Identities) -> None:
    security = identities.files("operator")
    assert await call(address, security, "ReadClock") is grpc.StatusCode.OK
    # Let in, and then told that this interface is none of those that may be held.
    assert await call(address, security, "Hold") is grpc.StatusCode.INVALID_ARGUMENT
    assert await call(address, security, "ShowInterface") is grpc.StatusCode.INVALID_ARGUMENT


async def test_in_plaintext_only_a_trusting_daemon_obeys() -> None:
    plaintext = {"plaintext": True}
    server, address = await serve(plaintext)
    assert await statuses(address, plaintext, READING + CHANGING) == DENIED
    await server.stop()
    server, address = await serve({**plaintext, "trust_names": True})
    assert await call(address, plaintext, "ReadClock") is grpc.StatusCode.OK
    assert await call(address, plaintext, "Hold") is grpc.StatusCode.INVALID_ARGUMENT
    await server.stop()


@pytest.mark.parametrize("lease_s", [0.0, float("nan"), 1e9])
async def test_a_lease_is_a_bounded_time(
    address: str, identities: Identities, lease_s: float
) -> None:
    security = TransportSecurity.model_validate(identities.files("operator"))
    take = board_pb2.TakeInterface(interface="air9", lease_s=lease_s)
    async with open_channel(address, security) as channel:
        stub: Any = board_pb2_grpc.BoardServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError, match=r"lease_s is .*; 1 to 86400 are taken"):
            await stub.Hold(iter([board_pb2.HoldRequest(take=take)]), timeout=20).read()
