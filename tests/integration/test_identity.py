"""Who calls is what its certificate says, over real mutual TLS; who is dialled likewise."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from agents import free_port
from cryptography import x509

from airloom.errors import ConfigurationError, PermissionDeniedError, UnauthenticatedError
from airloom.grpc_server import GrpcServer
from airloom.identity import Caller, Role, caller_of, certificate_command
from airloom.security import ServerSecurity, TransportSecurity, open_channel, why_refused
from device_agent.config import CloudSettings
from device_agent.uplink.uplink import Uplink
from protos.airloom.v1 import inference_pb2, task_pb2
from testbed.certificates import issue, make_authority
from testbed.cli import build_parser

sys.path.insert(0, str(Path(__file__).parents[1]))
from identities import Identities

WHO = "/test.Who/AmI"


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> Identities:
    return Identities(tmp_path_factory.mktemp("identities"))


class Who(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers every caller with what is known of it; a name that is sent is one to register as."""

    def __init__(self, trust_names: bool) -> None:
        self._trust_names = trust_names

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        if details.method != WHO:
            return None
        return grpc.unary_unary_rpc_method_handler(self._answer)

    async def _answer(self, claimed: bytes, context: Any) -> bytes:
        try:
            caller = caller_of(context, trust_names=self._trust_names)
            name = caller.registered_name(claimed.decode()) if claimed else caller.name
        except (PermissionDeniedError, UnauthenticatedError) as error:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
        return json.dumps(
            [name, sorted(role.value for role in caller.roles), caller.authenticated, caller.owner]
        ).encode()


@contextlib.asynccontextmanager
async def serving(listen: str, security: dict[str, Any]) -> AsyncIterator[None]:
    settings = ServerSecurity.model_validate(security)
    server = GrpcServer(listen, settings, [])
    server.server.add_generic_rpc_handlers((Who(settings.trust_names),))
    await server.start()
    try:
        yield
    finally:
        await server.stop()


async def who(address: str, security: dict[str, Any], claimed: str = "", **options: Any) -> Any:
    transport = TransportSecurity.model_validate(security)
    async with open_channel(address, transport, **options) as channel:
        return json.loads(await channel.unary_unary(WHO)(claimed.encode(), timeout=10))


@pytest.fixture
async def cloud(identities: Identities) -> AsyncIterator[str]:
    address = f"127.0.0.1:{free_port()}"
    async with serving(address, identities.files("cloud")):
        yield address


@pytest.mark.parametrize(
    ("name", "roles"),
    [
        ("board-a", ["device"]),
        ("board-b", ["device"]),
        ("coordinator", ["coordinator", "device"]),
        ("operator", ["operator"]),
        ("cloud", ["cloud"]),
    ],
)
async def test_the_certificate_says_name_and_roles(
    cloud: str, identities: Identities, name: str, roles: list[str]
) -> None:
    found = await who(cloud, identities.files(name))
    assert found == [name, roles, True, f"certificate {name}"]


async def test_a_board_registers_as_itself_only(cloud: str, identities: Identities) -> None:
    assert (await who(cloud, identities.files("board-a"), "board-a"))[0] == "board-a"
    with pytest.raises(
        grpc.aio.AioRpcError, match="is board-a, but the certificate is that of board-b"
    ) as refused:
        await who(cloud, identities.files("board-b"), "board-a")
    assert "testbed certificates --out FOLDER board-a" in (refused.value.details() or "")
    assert (await who(cloud, identities.files("operator"), "board-a"))[0] == "board-a"


async def test_a_unix_socket_is_the_operators(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/cloud.sock"
    async with serving(address, {"plaintext": True}):
        found = await who(address, {"plaintext": True})
    assert found == ["local", ["operator"], True, "socket"]


async def test_in_plaintext_a_name_counts_only_where_it_is_trusted() -> None:
    plaintext = {"plaintext": True}
    address = f"127.0.0.1:{free_port()}"
    async with serving(address, plaintext):
        assert (await who(address, plaintext))[:3] == ["", ["device"], False]
        with pytest.raises(grpc.aio.AioRpcError, match="trust_names: true"):
            await who(address, plaintext, "board-a")
    trusting = f"127.0.0.1:{free_port()}"
    async with serving(trusting, {**plaintext, "trust_names": True}):
        assert (await who(trusting, plaintext, "board-a"))[:3] == ["board-a", ["operator"], False]


def test_names_are_not_trusted_beside_certificates(identities: Identities) -> None:
    with pytest.raises(ValueError, match="trust_names is for plaintext: true"):
        ServerSecurity.model_validate({**identities.files("cloud"), "trust_names": True})


async def test_a_board_does_not_pass_for_the_cloud_although_its_host_name_fits(
    identities: Identities,
) -> None:
    address = f"127.0.0.1:{free_port()}"
    async with serving(address, identities.files("board-b")):
        # By host name alone it would have.
        await who(address, identities.files("board-a"))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await who(address, identities.files("board-a"), role=Role.CLOUD)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    said = why_refused(refused.value.details() or "", Role.CLOUD)
    assert (
        "does not have the role cloud (testbed certificates --out FOLDER --role cloud NAME" in said
    )


async def until_told(uplink: Uplink) -> None:
    while "testbed certificates --out FOLDER --role cloud NAME" not in uplink.last_error:
        await asyncio.sleep(0.01)


async def test_an_uplink_names_the_command_for_a_cloud_with_a_certificate_of_before(
    identities: Identities,
) -> None:
    async def never(task: task_pb2.Task) -> task_pb2.TaskResult:
        raise AssertionError(task)

    address = f"127.0.0.1:{free_port()}"
    settings = {"address": address, "security": identities.files("board-a")}
    uplink = Uplink(
        CloudSettings.model_validate(settings),
        device_id="board-a",
        model=inference_pb2.ModelInfo(),
        handle=never,
    )
    async with serving(address, identities.files("board-b")):
        running = asyncio.create_task(uplink.run())
        try:
            await asyncio.wait_for(until_told(uplink), 20)
        finally:
            running.cancel()


async def test_the_cloud_is_known_by_its_role_under_any_address(tmp_path: Path) -> None:
    make_authority(tmp_path)
    issue(tmp_path, "cloud", roles=[Role.CLOUD])
    files = {
        "ca": str(tmp_path / "ca.crt"),
        "certificate": str(tmp_path / "cloud.crt"),
        "key": str(tmp_path / "cloud.key"),
    }
    address = f"127.0.0.1:{free_port()}"
    async with serving(address, files):
        assert (await who(address, files, role=Role.CLOUD))[0] == "cloud"


async def test_a_certificate_of_another_authority_is_refused(cloud: str, tmp_path: Path) -> None:
    stranger = Identities(tmp_path)
    with pytest.raises(grpc.aio.AioRpcError):
        await who(cloud, stranger.files("operator"))


@pytest.mark.parametrize("name", ["", "two words", "a/b", "x" * 65, "b\u00f6ard", "ca", "line\n"])
def test_only_agents_names_get_certificates(tmp_path: Path, name: str) -> None:
    make_authority(tmp_path)
    with pytest.raises(ConfigurationError, match="is no agent's name"):
        issue(tmp_path, name)


@pytest.mark.parametrize(
    ("name", "hosts"),
    [("cloud.role.airloom", []), ("board", ["cloud.role.airloom"]), ("b", ["CLOUD.ROLE.AIRLOOM"])],
)
def test_no_name_and_no_host_makes_a_role(tmp_path: Path, name: str, hosts: list[str]) -> None:
    make_authority(tmp_path)
    with pytest.raises(ConfigurationError, match="--role"):
        issue(tmp_path, name, hosts)


async def test_the_command_gives_roles_and_days(tmp_path: Path) -> None:
    def certificates(*arguments: str) -> int:
        command = ["certificates", "--out", str(tmp_path), *arguments]
        parsed = build_parser().parse_args(command)
        status: int = parsed.call(parsed)
        return status

    assert certificates("cloud=127.0.0.1", "--role=cloud") == 0
    assert certificates("lab", "--role", "operator", "--role", "coordinator", "--days", "7") == 0
    assert certificates("board") == 0
    files = {
        name: {"ca": str(tmp_path / "ca.crt")}
        | {"certificate": str(tmp_path / f"{name}.crt"), "key": str(tmp_path / f"{name}.key")}
        for name in ("cloud", "lab", "board")
    }
    address = f"127.0.0.1:{free_port()}"
    async with serving(address, files["cloud"]):
        assert (await who(address, files["lab"]))[1] == ["coordinator", "device", "operator"]
        assert (await who(address, files["board"], role=Role.CLOUD))[1] == ["device"]
    lab = x509.load_pem_x509_certificate((tmp_path / "lab.crt").read_bytes())
    assert (lab.not_valid_after_utc - lab.not_valid_before_utc).days == 7 + 1
    with pytest.raises(ConfigurationError, match="is no agent's name"):
        certificates("two words")
    for wrong in ("--days=0", "--days=3651", "--days=nan", "--role=king"):
        with pytest.raises(SystemExit):
            certificates("b", wrong)


def test_what_takes_a_role_says_which_command_gives_it() -> None:
    board = Caller("board-a", frozenset({Role.DEVICE}), True)
    with pytest.raises(PermissionDeniedError) as refused:
        board.require(Role.COORDINATOR, to="list devices")
    assert str(refused.value) == (
        "to list devices takes the role coordinator or operator; board-a has device "
        "(testbed certificates --out FOLDER --role coordinator NAME)"
    )
    Caller("me", frozenset({Role.OPERATOR}), True).require(Role.COORDINATOR, to="list devices")


@pytest.mark.parametrize("role", [None, *Role])
def test_the_command_that_errors_name_makes_such_a_certificate(
    role: Role | None, tmp_path: Path
) -> None:
    program, *arguments = (
        certificate_command("board-c", role).replace("FOLDER", str(tmp_path)).split()
    )
    assert program == "testbed"
    parsed = build_parser().parse_args(arguments)
    assert parsed.call(parsed) == 0
    certificate = x509.load_pem_x509_certificate((tmp_path / "board-c.crt").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    assert uris == ([] if role is None else [f"airloom:role/{role.value}"])
