"""The link daemon of a board: each call of Hold has a `netctl hold` process of its own.

Whatever happens to the controller, the call or this daemon, the process's input closes or its lease
runs out, and the interface is restored; whatever happens to the process, its guardians do that.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
import time
from collections.abc import AsyncIterator, Awaitable
from dataclasses import asdict
from typing import Any, NoReturn, TypeAlias

import grpc

from airloom.errors import AirloomError, ConfigurationError, LinkError
from airloom.grpc_server import GrpcServer
from airloom.identity import Role, caller_of
from airloom.signals import until_signalled
from netctl.backends.kernel import read_back
from netctl.backends.kernel.filters import Exemption
from netctl.backends.kernel.netlink import Netlink
from netctl.daemon.messages import from_message
from netctl.daemon.settings import DaemonSettings
from netctl.interface.lease import leases_here
from netctl.interface.restore import restore
from protos.airloom.v1 import board_pb2, board_pb2_grpc

_PATIENCE_S = 30.0
"""For a process that ends anyway."""
_LONGEST_LEASE_S = 86_400.0
_ROUND_S = 1.0
"""Between two looks for what was left behind by killed holders and killed guardians."""
_log = logging.getLogger(__name__)
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class HoldProcess:
    """A `netctl hold` and its lines of JSON."""

    def __init__(self, process: asyncio.subprocess.Process, interface: str) -> None:
        self._process = process
        self._interface = interface

    @classmethod
    async def start(cls, take: board_pb2.TakeInterface, exempt: list[str]) -> HoldProcess:
        """Take the interface; LinkError in the process's words where it cannot be had."""
        arguments = [f"--exempt={one}" for one in exempt]
        if take.incoming:
            arguments.append("--incoming")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "netctl.cli", "hold", take.interface,
            f"--lease={take.lease_s} s", *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        held = cls(process, take.interface)
        try:
            await held.answer()
        except BaseException:
            await held.close()
            raise
        return held

    async def answer(self) -> dict[str, Any]:
        """Its next line; LinkError in its own words where it has ended instead."""
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            await self.failed()
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def failed(self) -> NoReturn:
        """Wait for its end, and raise what it said."""
        assert self._process.stderr is not None
        words = (await self._process.stderr.read()).decode().strip().removeprefix("netctl: ")
        raise LinkError(words or f"what held {self._interface} was killed; it is restored")

    async def order(self, order: dict[str, Any]) -> dict[str, Any]:
        """Give it an order; its answer."""
        assert self._process.stdin is not None
        with contextlib.suppress(ConnectionError):
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            await self._process.stdin.drain()
        return await self.answer()

    async def ended(self) -> None:
        """Wait until it has ended by itself."""
        await self._process.wait()

    async def close(self) -> None:
        """End it: it restores the interface before it goes."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), _PATIENCE_S)
        except asyncio.TimeoutError:
            self._process.kill()
            await self._process.wait()


class BoardService(board_pb2_grpc.BoardServiceServicer):
    """What BoardService's methods do; an error ends its call with its own words.

    An operator shapes and restores; a coordinator may also read what is here, and the clock.
    """

    def __init__(self, settings: DaemonSettings) -> None:
        self._settings = settings
        _, colon, port = settings.listen.rpartition(":")
        own = f"tcp/{port}" if colon and port.isdecimal() else None
        # Whoever shapes the board must reach it while it is shaped.
        self._exempt = [] if own is None else [own]

    def _require(self, context: Context, *allowed: Role, to: str) -> None:
        """Raise PermissionDeniedError unless the caller is an operator or has one of the roles."""
        caller_of(context, trust_names=self._settings.security.trust_names).require(*allowed, to=to)

    async def DescribeBoard(  # noqa: N802  # gRPC's names
        self, request: board_pb2.DescribeBoardRequest, context: Context
    ) -> board_pb2.DescribeBoardResponse:
        del request
        self._require(context, Role.COORDINATOR, to="see what a board's kernel can do")
        # In a process of its own, because it tries things in a fork of itself.
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "netctl.cli", "probe", "--json", stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()
        found = json.loads(output)["capabilities"]
        return board_pb2.DescribeBoardResponse(
            kernel=found.pop("kernel"),
            missing={name: why for name, why in found.items() if isinstance(why, str)},
            interfaces=self._settings.interfaces,
        )

    async def Hold(  # noqa: N802
        self,
        request_iterator: AsyncIterator[board_pb2.HoldRequest],
        context: Context,
    ) -> AsyncIterator[board_pb2.HoldResponse]:
        self._require(context, to="hold an interface")
        requests = aiter(request_iterator)
        held = await self._take(await anext(requests, None))
        try:
            yield board_pb2.HoldResponse()
            while (request := await _unless_ended(anext(requests, None), held)) is not None:
                yield await _obey(held, request)
        finally:
            await held.close()

    async def _take(self, request: board_pb2.HoldRequest | None) -> HoldProcess:
        if request is None or request.WhichOneof("order") != "take":
            raise ConfigurationError("the first message of Hold takes an interface")
        take = request.take
        self._check(take.interface)
        if not 1 <= take.lease_s <= _LONGEST_LEASE_S:
            raise ConfigurationError(
                f"lease_s is {take.lease_s:g}; 1 to {_LONGEST_LEASE_S:g} are taken"
            )
        for text in take.exempt:
            try:
                Exemption.parse(text)
            except ValueError as error:
                raise ConfigurationError(str(error), field="exempt") from error
        return await HoldProcess.start(take, [*self._exempt, *take.exempt])

    def _check(self, interface: str) -> None:
        if interface not in self._settings.interfaces:
            raise ConfigurationError(
                f"{interface!r} may not be held here; {', '.join(self._settings.interfaces)} may"
            )

    async def ShowInterface(  # noqa: N802
        self, request: board_pb2.ShowInterfaceRequest, context: Context
    ) -> board_pb2.ShowInterfaceResponse:
        self._require(context, Role.COORDINATOR, to="see what is on an interface")

        def read() -> board_pb2.ShowInterfaceResponse:
            self._check(request.interface)
            with Netlink() as netlink:
                shown = read_back.read_back(netlink, request.interface)
                foreign = read_back.foreign_root(netlink, request.interface)
            held = any(one.held for one in leases_here() if one.interface == request.interface)
            return board_pb2.ShowInterfaceResponse(
                tree="" if shown is None else read_back.describe(shown),
                foreign=foreign or "",
                held=held,
            )

        return await asyncio.to_thread(read)

    async def Restore(  # noqa: N802
        self, request: board_pb2.RestoreRequest, context: Context
    ) -> board_pb2.RestoreResponse:
        del request
        self._require(context, to="restore interfaces")
        return board_pb2.RestoreResponse(interfaces=await asyncio.to_thread(restore))

    async def ReadClock(  # noqa: N802
        self, request: board_pb2.ReadClockRequest, context: Context
    ) -> board_pb2.ReadClockResponse:
        del request
        self._require(context, Role.COORDINATOR, to="read a board's clock")
        return board_pb2.ReadClockResponse(unix_ns=time.time_ns())


async def _unless_ended(
    coming: Awaitable[board_pb2.HoldRequest | None], held: HoldProcess
) -> board_pb2.HoldRequest | None:
    """The next message; LinkError where the process ends before it comes."""
    message, end = asyncio.ensure_future(coming), asyncio.ensure_future(held.ended())
    try:
        await asyncio.wait((message, end), return_when=asyncio.FIRST_COMPLETED)
        if not message.done():
            await held.failed()
        return await message
    finally:
        message.cancel()
        end.cancel()


async def _obey(held: HoldProcess, request: board_pb2.HoldRequest) -> board_pb2.HoldResponse:
    kind = request.WhichOneof("order")
    order: dict[str, Any] = {}
    if kind == "change":
        try:
            order["conditions"] = asdict(from_message(request.change.conditions))
        except ConfigurationError as error:
            return board_pb2.HoldResponse(error=str(error))
        if request.change.HasField("at_unix_ns"):
            order["at_s"] = request.change.at_unix_ns / 1e9
    elif kind != "renewal":
        return board_pb2.HoldResponse(error="an order is a change or a renewal")
    return board_pb2.HoldResponse(**await held.order(order))


async def serve(settings: DaemonSettings) -> None:
    """Serve until SIGTERM or SIGINT; what is held then is restored.

    Meanwhile this is the last guardian of every lease on the board, whoever made it.
    """
    (name,) = (board_pb2.DESCRIPTOR.services_by_name["BoardService"].full_name,)
    server = GrpcServer(settings.listen, settings.security, [name])
    board_pb2_grpc.add_BoardServiceServicer_to_server(BoardService(settings), server.server)
    await server.start()
    watching = asyncio.create_task(_restore_what_is_left())
    try:
        await until_signalled()
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await server.stop()


async def _restore_what_is_left() -> None:
    while True:
        try:
            for interface in await asyncio.to_thread(restore):
                _log.warning("%s was left behind, and is restored", interface)
        except (AirloomError, OSError):
            # The next round may have more luck; what is held must go on.
            _log.exception("what was left behind could not be restored")
        await asyncio.sleep(_ROUND_S)
