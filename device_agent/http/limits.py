"""Limits on requests: how large a body, how slowly it may come, how many at once by one caller."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from airloom.errors import AirloomError, InvalidTaskError, OverloadedError
from airloom.log_text import one_line
from device_agent.http import errors
from device_agent.http.auth import caller_of
from device_agent.http.settings import HttpLimits

log = logging.getLogger(__name__)

_SLOWEST_BODY_BYTES_PER_S = 500


class Faults:
    """Answers whatever was raised and not foreseen with 500, and tells it to the log."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sent = ""

        async def watched(message: Message) -> None:
            nonlocal sent
            await send(message)
            last = message["type"] == "http.response.body" and not message.get("more_body")
            sent = "all" if last else "a part"

        try:
            await self._app(scope, receive, watched)
        except Exception:
            where = f"{scope.get('method')} {scope.get('path')}"
            log.exception("%s failed", one_line(where))
            if sent == "a part":
                # The connection ends in the middle of the answer, which says that it is none.
                raise
            if not sent:
                await errors.fault()(scope, receive, send)


class RequestsAtOnce:
    """Refuses a caller's requests beyond a number at once."""

    def __init__(self, app: ASGIApp, limits: HttpLimits) -> None:
        self._app, self._most = app, limits.requests_of_a_caller
        self._running: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller = caller_of(scope)
        if self._running[caller] >= self._most:
            error = OverloadedError(
                f"{self._most} requests of {caller or 'unnamed callers'} are being answered already"
            )
            await _refuse(error, scope, receive, send)
            return
        self._running[caller] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._running[caller] -= 1


class BodyLimit:
    """Reads each body whole before the application sees the request, within bounds.

    A body that says that it is too long is refused before it is read; one that turns out to be is cut
    off there, one that comes too slowly is not waited for.
    """

    def __init__(self, app: ASGIApp, limits: HttpLimits) -> None:
        self._app, self._limits = app, limits
        self._held_bytes = 0
        """Of all bodies that are being read, or whose requests are being answered."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body()
        try:
            try:
                self._check_length(Headers(scope=scope))
                await self._read(body, receive)
            except _ClientLeftError:
                return
            except AirloomError as error:
                await _refuse(error, scope, receive, send)
                return
            whole: list[Message] = [
                {"type": "http.request", "body": body.take(), "more_body": False}
            ]

            async def replayed() -> Message:
                return whole.pop() if whole else await receive()

            await self._app(scope, replayed, send)
        finally:
            self._held_bytes -= body.size_bytes

    def _check_length(self, headers: Headers) -> None:
        said = headers.get("content-length")
        if said is None:
            return
        if not (said.isascii() and said.isdigit() and len(said) <= 20):
            raise InvalidTaskError(
                f"Content-Length is {one_line(said, 40)!r}: it should be a number"
            )
        self._check_size(int(said))
        if self._held_bytes + int(said) > self._limits.bodies_bytes:
            raise self._too_many()

    def _check_size(self, size_bytes: int) -> None:
        most = self._limits.body_bytes
        if size_bytes > most:
            raise errors.BodyTooLargeError(f"the body has over {most:,} bytes, more than are taken")

    def _too_many(self) -> OverloadedError:
        return OverloadedError(
            f"the requests being answered have {self._limits.bodies_bytes:,} bytes of bodies already"
        )

    async def _read(self, body: _Body, receive: Receive) -> None:
        started_s = time.monotonic()
        more = True
        while more:
            allowed_s = self._limits.body_timeout_s + body.size_bytes / _SLOWEST_BODY_BYTES_PER_S
            left_s = started_s + allowed_s - time.monotonic()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, left_s))
            except asyncio.TimeoutError:
                raise errors.SlowBodyError(
                    f"{body.size_bytes:,} bytes of the body came within {allowed_s:.0f} s: too slowly"
                ) from None
            if message["type"] == "http.disconnect":
                raise _ClientLeftError
            piece = message.get("body", b"")
            self._check_size(body.size_bytes + len(piece))
            if self._held_bytes + len(piece) > self._limits.bodies_bytes:
                raise self._too_many()
            body.add(piece)
            self._held_bytes += len(piece)
            more = message.get("more_body", False)


class _Body:
    """The body of one request as it comes."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self.size_bytes = 0

    def add(self, piece: bytes) -> None:
        self._bytes += piece
        self.size_bytes += len(piece)

    def take(self) -> bytes:
        """What has come; whoever takes it holds it from then on."""
        whole, self._bytes = bytes(self._bytes), bytearray()
        return whole


class _ClientLeftError(Exception):
    """Nobody waits for an answer any more."""


async def _refuse(error: AirloomError, scope: Scope, receive: Receive, send: Send) -> None:
    response = errors.response(error)
    # What follows of the body is not read.
    response.headers["Connection"] = "close"
    await response(scope, receive, send)
