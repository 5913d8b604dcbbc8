"""A TCP link that can be slow, silent or cut: a proxy on the loopback."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Literal

LinkState = Literal["up", "silent", "cut"]
_READ_BYTES = 1 << 16
_WAITING_PARTS = 64


class LinkProxy:
    """Passes bytes to a port of this machine and back, each after `delay_s`.

    Silent: nothing passes and nobody is told. Cut: connections break, and new ones break at once.
    """

    def __init__(self, target_port: int, *, delay_s: float = 0.0, port: int = 0) -> None:
        self.delay_s = delay_s
        self.port = port
        """Where it listens; chosen at the start where 0 is given."""
        self.state: LinkState = "up"
        self._target_port = target_port
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._connections: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> LinkProxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        self._break_connections()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def set(self, state: LinkState) -> None:
        """Change what the link does from now on."""
        self.state = state
        if state == "silent":
            self._flowing.clear()
        else:
            self._flowing.set()
        if state == "cut":
            self._break_connections()

    def _break_connections(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.current_task()
        assert connection is not None
        self._connections.add(connection)
        self._writers.add(writer)
        far: asyncio.StreamWriter | None = None
        try:
            if self.state == "cut":
                return
            far_reader, far = await asyncio.open_connection("127.0.0.1", self._target_port)
            self._writers.add(far)
            await asyncio.gather(self._pass(reader, far), self._pass(far_reader, writer))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for end in (writer, far):
                if end is not None:
                    self._writers.discard(end)
                    end.transport.abort()
            self._connections.discard(connection)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parts: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_WAITING_PARTS)
        loop = asyncio.get_running_loop()
        writing = asyncio.create_task(self._write(parts, writer))
        try:
            while data := await reader.read(_READ_BYTES):
                await parts.put((loop.time() + self.delay_s, data))
            await parts.put((loop.time() + self.delay_s, b""))
            await writing
        finally:
            writing.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await writing

    async def _write(
        self, parts: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due_s, data = await parts.get()
            await asyncio.sleep(max(0.0, due_s - loop.time()))
            await self._flowing.wait()
            if not data:
                writer.transport.abort()
                return
            writer.write(data)
            await writer.drain()
