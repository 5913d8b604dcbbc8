"""Who is who on the fleet's service: over mutual TLS, in plaintext, and by roles."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc
import pytest
from fleet import PATIENCE_S, asking, echo, infer, running_cloud, running_uplink
from test_fleet import ended, registration

from airloom.errors import PermissionDeniedError, UnreachableError
from airloom.identity import LOCAL_OPERATOR, Caller, Role
from airloom.security import ServerSecurity, TransportSecurity, open_channel
from cloud_agent.fleet.teams import Teams
from protos.airloom.v1 import fleet_pb2, fleet_pb2_grpc, task_pb2
from testbed.certificates import issue, make_authority


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    make_authority(folder)
    issue(folder, "cloud", ["127.0.0.1"], roles=[Role.CLOUD])
    issue(folder, "board-a")
    issue(folder, "board-b")
    return folder


def security(folder: Path, name: str) -> TransportSecurity:
    return TransportSecurity(
        ca=folder / "ca.crt", certificate=folder / f"{name}.crt", key=folder / f"{name}.key"
    )


async def test_a_board_never_becomes_another(certificates: Path) -> None:
    heard: dict[str, list[str]] = {"board-a": [], "board-b": []}

    def handler(name: str) -> Callable[[task_pb2.Task], Awaitable[task_pb2.TaskResult]]:
        async def handle(task: task_pb2.Task) -> task_pb2.TaskResult:
            heard[name].append(task.parts[0].text.text)
            return await echo(task)

        return handle

    cloud_security = ServerSecurity(**dict(security(certificates, "cloud")))
    async with (
        running_cloud(security=cloud_security) as cloud,
        running_uplink(
            cloud.address,
            "board-a",
            handle=handler("board-a"),
            security=security(certificates, "board-a"),
        ),
        # board-b's certificate, and board-a's name.
        running_uplink(
            cloud.address,
            "board-a",
            handle=handler("board-b"),
            security=security(certificates, "board-b"),
        ) as impostor,
    ):
        await cloud.until_registered("board-a")
        while "registration.device_id" not in impostor.last_error:
            await asyncio.sleep(0.005)
        assert "board-a" in impostor.last_error
        assert "board-b" in impostor.last_error
        with pytest.raises(
            UnreachableError, match=r"board-a, but the certificate is that of board-b"
        ):
            # Whoever is refused is told at once: waiting would not help.
            await impostor.ask(asking("as board-a"), None)
        (device,) = cloud.registry
        result = await device.assign(asking("for board-a"), None)
        assert result.answer.provenance.agent_id == "board-a"
        assert heard == {"board-a": ["for board-a"], "board-b": []}
        async with open_channel(cloud.address, security(certificates, "board-b")) as channel:
            stub = fleet_pb2_grpc.FleetServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError, match="takes the role coordinator") as caught:
                await stub.ListDevices(fleet_pb2.ListDevicesRequest(), timeout=PATIENCE_S)
            assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
            with pytest.raises(grpc.aio.AioRpcError, match="takes the role coordinator"):
                await infer(channel, asking("?"), "board-a")


async def test_a_newer_stream_of_the_same_certificate_takes_the_place(certificates: Path) -> None:
    cloud_security = ServerSecurity(**dict(security(certificates, "cloud")))
    own = security(certificates, "board-a")

    async def sending() -> AsyncIterator[fleet_pb2.ConnectRequest]:
        yield registration("board-a")
        await asyncio.Event().wait()

    async with (
        running_cloud(security=cloud_security) as cloud,
        open_channel(cloud.address, own) as channel,
    ):
        old = fleet_pb2_grpc.FleetServiceStub(channel).Connect(sending())
        assert (await old.read()).HasField("welcome")
        async with running_uplink(cloud.address, "board-a", security=own):
            with pytest.raises(grpc.aio.AioRpcError, match="newer stream of board-a") as caught:
                await old.read()
            assert caught.value.code() == grpc.StatusCode.ABORTED
            await cloud.until_registered("board-a")


async def test_streams_of_one_certificate_that_say_nothing_are_few(certificates: Path) -> None:
    cloud_security = ServerSecurity(**dict(security(certificates, "cloud")))
    async with (
        running_cloud(security=cloud_security, unregistered_streams=2) as cloud,
        open_channel(cloud.address, security(certificates, "board-b")) as channel,
    ):

        async def silent() -> AsyncIterator[fleet_pb2.ConnectRequest]:
            await asyncio.Event().wait()
            yield registration("board-b")

        stub = fleet_pb2_grpc.FleetServiceStub(channel)
        calls = [stub.Connect(silent()) for _ in range(3)]
        reads = [asyncio.ensure_future(call.read()) for call in calls]
        done, _ = await asyncio.wait(reads, return_when=asyncio.FIRST_COMPLETED)
        (refused,) = done
        error = refused.exception()
        assert isinstance(error, grpc.aio.AioRpcError)
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "2 streams of 'board-b'" in (error.details() or "")
        for call in calls:
            call.cancel()
        await asyncio.gather(*reads, return_exceptions=True)
        async with running_uplink(
            cloud.address, "board-a", security=security(certificates, "board-a")
        ):
            await cloud.until_registered("board-a")


async def test_in_plaintext_a_name_counts_only_where_it_is_trusted() -> None:
    async with running_cloud(security=ServerSecurity(plaintext=True)) as cloud:
        told, details = await ended([registration("board")], cloud.address)
        assert told == grpc.StatusCode.UNAUTHENTICATED
        assert "trust_names: true" in details
        async with grpc.aio.insecure_channel(cloud.address) as channel:
            stub = fleet_pb2_grpc.FleetServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError, match="takes the role"):
                await stub.ListDevices(fleet_pb2.ListDevicesRequest(), timeout=PATIENCE_S)


def caller(name: str, *roles: Role) -> Caller:
    return Caller(name, frozenset(roles), True)


async def test_a_coordinator_reaches_its_team_and_an_operator_all() -> None:
    teams = {"lead": ["board-a", "board-c"]}
    async with (
        running_cloud(teams=teams) as cloud,
        running_uplink(cloud.address, "board-a"),
        running_uplink(cloud.address, "board-b"),
    ):
        await cloud.until_registered("board-a", "board-b")
        reach = Teams(teams)
        lead, other = caller("lead", Role.COORDINATOR), caller("other", Role.COORDINATOR)
        names = [device.device_id for device in reach.visible(lead, cloud.registry)]
        assert names == ["board-a"]
        assert reach.visible(other, cloud.registry) == []
        assert len(reach.visible(LOCAL_OPERATOR, cloud.registry)) == 2
        assert reach.device(lead, "board-a", cloud.registry).device_id == "board-a"
        with pytest.raises(UnreachableError, match=r"connected now: board-a$"):
            reach.device(lead, "board-c", cloud.registry)
        for refused, message in (
            (lead, "'board-b' is not of the team of 'lead': .* board-a, board-c in it"),
            (other, "has nobody in it"),
            (caller("board-b", Role.DEVICE), "takes the role coordinator or operator"),
        ):
            with pytest.raises(PermissionDeniedError, match=message):
                reach.device(refused, "board-b", cloud.registry)
