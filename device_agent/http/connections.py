"""Connections that neither wait for ever nor remember any number of headers.

uvicorn limits neither how long nor how large a request's headers may be, nor for how long an answer
stays unread (only idle connections are closed): all are watched where the bytes pass.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import re
from collections.abc import Iterator
from typing import Any, ClassVar

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from airloom.identity import NAME_PATTERN
from device_agent.http.schemas import ErrorBody, ErrorResponse
from device_agent.http.settings import HttpLimits


class GuardedProtocol(HttpToolsProtocol):
    """One connection; knows by its certificate who is at the other end."""

    limits: ClassVar[HttpLimits]
    waiting: ClassVar[dict[GuardedProtocol, None]]
    """The server's connections on which no request is being answered or read, the oldest first."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._header_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._header_bytes = 0
        self._in_body = False
        self._refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if name := _certified_name(transport):
            self.app_state = {**self.app_state, "caller": name}
        if len(self.connections) > self.limits.connections:
            oldest = next(iter(self.waiting), None)
            if oldest is None:
                self._refuse(503, f"{self.limits.connections} requests are being answered already")
                return
            # Whoever opens connections and says nothing must not keep out whoever asks.
            oldest.give_way()
        self.waiting[self] = None
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self.waiting.pop(self, None)
        self._stop_waiting()
        self._stop_writing_timer()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_timer is None:
            wait_s = self.limits.write_timeout_s
            self._write_timer = self.loop.call_later(wait_s, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop_writing_timer()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if not self._in_body:
            self._header_bytes += len(data)
            self._await_headers()
        super().data_received(data)
        if not self._in_body and self._header_bytes > self.limits.header_bytes:
            self._refuse_headers()

    def on_message_begin(self) -> None:
        self._await_headers()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._stop_waiting()
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if self._refused or size > self.limits.header_bytes:
            self._refuse_headers()
            return
        self._in_body = True
        self.waiting.pop(self, None)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_body, self._header_bytes = False, 0
        if not self._refused:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not (self._answering() or self._in_body or self.transport.is_closing()):
            self.waiting[self] = None

    def give_way(self) -> None:
        """Close a connection that waits, for the sake of another."""
        self._refused = True
        self.waiting.pop(self, None)
        self._stop_waiting()
        self.transport.close()

    def _await_headers(self) -> None:
        if self._header_timer is None and not self._refused:
            wait_s = self.limits.header_timeout_s
            self._header_timer = self.loop.call_later(wait_s, self._headers_are_late)

    def _stop_waiting(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _stop_writing_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _headers_are_late(self) -> None:
        self._header_timer = None
        if self._answering():
            # Half a request behind one that is being answered: that one is, then the connection ends.
            self.cycle.keep_alive = False
        elif self._header_bytes:
            wait_s = self.limits.header_timeout_s
            self._refuse(408, f"the request's headers did not come within {wait_s:g} s")
        else:
            self.transport.close()

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse_headers(self) -> None:
        self._refuse(431, f"the headers have over {self.limits.header_bytes:,} bytes")

    def _refuse(self, status: int, why: str) -> None:
        """Answer without the application, and close."""
        if self._refused:
            return
        self._refused = True
        self._stop_waiting()
        if not self._answering():
            body = ErrorResponse(error=ErrorBody(message=why, type="invalid_request_error"))
            content = body.model_dump_json().encode()
            head = (
                f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}\r\n"
                "content-type: application/json\r\n"
                f"content-length: {len(content)}\r\n"
                "connection: close\r\n\r\n"
            )
            self.transport.write(head.encode("ascii") + content)
        self.transport.close()


class QuietServer(uvicorn.Server):
    """Leaves signals to the agent."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def guarded(limits: HttpLimits) -> type[GuardedProtocol]:
    """The kind of connection that uvicorn should make, within these limits."""
    return type("LimitedProtocol", (GuardedProtocol,), {"limits": limits, "waiting": {}})


def _certified_name(transport: asyncio.Transport) -> str:
    """The first DNS name of the client's certificate, where it could be an agent's; else empty."""
    certificate = transport.get_extra_info("peercert") or {}
    for kind, name in certificate.get("subjectAltName", ()):
        if kind == "DNS":
            return name if re.fullmatch(NAME_PATTERN, name) else ""
    return ""
