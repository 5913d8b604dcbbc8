"""A board from its controller's side: hold its interfaces, change them at one moment, know the skew."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import grpc

from airloom.errors import ConfigurationError, LinkError, UnreachableError
from airloom.security import TransportSecurity, open_channel
from netctl.conditions.link import DirectionConditions
from netctl.daemon.messages import to_message
from netctl.interface.lease import RENEWALS
from protos.airloom.v1 import board_pb2, board_pb2_grpc

_CLOCK_READINGS = 8
_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class ClockOffset:
    """How far a board's clock is ahead of ours, and by how much that may be wrong."""

    offset_s: float
    uncertainty_s: float


@dataclass(frozen=True, slots=True)
class Change:
    """What a board says of a change."""

    late_ms: float
    """By its own clock."""
    differences: tuple[str, ...]
    """What the kernel then had that was not asked for."""


class HeldInterface:
    """An interface of a board in our hands; its lease is renewed meanwhile."""

    def __init__(self, call: Any, place: str, lease_s: float) -> None:
        self._call = call
        self._place = place
        self._lease_s = lease_s
        self._turn = asyncio.Lock()
        """Answers come in the order of the messages."""
        self._renewing: asyncio.Task[None] | None = None

    async def _ask(self, request: board_pb2.HoldRequest) -> board_pb2.HoldResponse:
        async with self._turn:
            try:
                await self._call.write(request)
                answer = await self._call.read()
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
                raise await self._lost() from error
        if not isinstance(answer, board_pb2.HoldResponse):
            raise await self._lost()
        if answer.error:
            raise ConfigurationError(answer.error, source=self._place)
        return answer

    async def _lost(self) -> LinkError:
        words = await self._call.details() or "the board has let go of the interface"
        if await self._call.code() is grpc.StatusCode.UNAVAILABLE:
            words = f"the board does not answer: {words}"
        return LinkError(f"{self._place}: {words}")

    async def take(self, take: board_pb2.TakeInterface) -> None:
        """The first message; from then on the lease is renewed."""
        await self._ask(board_pb2.HoldRequest(take=take))
        self._renewing = asyncio.create_task(self._renew())

    async def change(self, conditions: DirectionConditions, *, at_s: float | None = None) -> Change:
        """Let these conditions hold, from a moment of the board's clock on or from now.

        Raises:
            ConfigurationError: no link can be so.
            LinkError: the board has let go.
        """
        at_unix_ns = None if at_s is None else round(at_s * 1e9)
        change = board_pb2.ChangeConditions(
            conditions=to_message(conditions), at_unix_ns=at_unix_ns
        )
        answer = await self._ask(board_pb2.HoldRequest(change=change))
        return Change(answer.late_ms, tuple(answer.differences))

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._lease_s / RENEWALS)
            await self._ask(board_pb2.HoldRequest(renewal=board_pb2.Renewal()))

    async def lost(self) -> None:
        """Wait until the interface is lost: LinkError then."""
        assert self._renewing is not None
        await asyncio.shield(self._renewing)

    async def let_go(self) -> None:
        """Return when the interface is restored."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.gather(self._renewing, return_exceptions=True)
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await self._call.done_writing()
            # The end of the call comes when that is done.
            await self._call.read()
        self._call.cancel()


class Board:
    """A connection to a board's link daemon."""

    def __init__(self, address: str, security: TransportSecurity) -> None:
        self.address = address
        self._channel = open_channel(address, security)
        self._stub: Any = board_pb2_grpc.BoardServiceStub(self._channel)

    async def __aenter__(self) -> Board:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._channel.close(None)

    def _explain(self, error: grpc.aio.AioRpcError) -> LinkError | UnreachableError:
        if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            return UnreachableError(f"the board {self.address} does not answer: {error.details()}")
        return LinkError(f"{self.address}: {error.details()}")

    async def describe(self) -> board_pb2.DescribeBoardResponse:
        """What its kernel can do."""
        try:
            described: board_pb2.DescribeBoardResponse = await self._stub.DescribeBoard(
                board_pb2.DescribeBoardRequest(), timeout=_TIMEOUT_S
            )
            return described
        except grpc.aio.AioRpcError as error:
            raise self._explain(error) from error

    async def show(self, interface: str) -> board_pb2.ShowInterfaceResponse:
        """What is on one of its interfaces."""
        try:
            shown: board_pb2.ShowInterfaceResponse = await self._stub.ShowInterface(
                board_pb2.ShowInterfaceRequest(interface=interface), timeout=_TIMEOUT_S
            )
            return shown
        except grpc.aio.AioRpcError as error:
            raise self._explain(error) from error

    async def clock_offset(self) -> ClockOffset:
        """Compare clocks; the reading that came back fastest is the best (as in NTP, RFC 5905)."""
        best: ClockOffset | None = None
        for _ in range(_CLOCK_READINGS):
            sent_s, began_s = time.time(), time.monotonic()
            try:
                answer = await self._stub.ReadClock(
                    board_pb2.ReadClockRequest(), timeout=_TIMEOUT_S
                )
            except grpc.aio.AioRpcError as error:
                raise self._explain(error) from error
            half_s = (time.monotonic() - began_s) / 2
            if best is None or half_s < best.uncertainty_s:
                best = ClockOffset(answer.unix_ns / 1e9 - sent_s - half_s, half_s)
        assert best is not None
        return best

    @contextlib.asynccontextmanager
    async def hold(
        self,
        interface: str,
        *,
        lease_s: float = 10.0,
        exempt: Sequence[str] = (),
        incoming: bool = False,
    ) -> AsyncIterator[HeldInterface]:
        """Hold an interface until the block ends; it is restored then.

        Raises:
            LinkError: it cannot be had.
        """
        held = HeldInterface(self._stub.Hold(), f"{self.address}/{interface}", lease_s)
        take = board_pb2.TakeInterface(
            interface=interface, lease_s=lease_s, exempt=exempt, incoming=incoming
        )
        try:
            await held.take(take)
            yield held
        finally:
            await held.let_go()
