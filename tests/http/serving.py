"""Served engines for tests of the HTTP API."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
from prometheus_client import CollectorRegistry

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
from engines import MODELS

from device_agent.cascade import Cascade
from device_agent.chat import EngineChat
from device_agent.config import ModelSettings
from device_agent.http.server import serve_http
from device_agent.http.settings import HttpSettings
from device_agent.runtime import open_engine

MODEL = "airloom-mathematics"
KEY = "a-key-for-tests"
PATIENCE_S = 120.0
"""How long anything may take here: a machine may be slow, and busy with other things."""

PLAINTEXT = {"plaintext": True}

__all__ = ["KEY", "MODEL", "MODELS", "PATIENCE_S", "PLAINTEXT", "Loop", "Serve", "Served", "opened"]


class Loop:
    """An event loop on a thread of its own, on which engines and servers live."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_S)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@contextlib.contextmanager
def opened(loop: Loop, registry: CollectorRegistry) -> Iterator[EngineChat]:
    """The small model for arithmetic in an engine."""
    model = ModelSettings(
        path=MODELS["mathematics"], threads=1, context_tokens=384, stream_interval_ms=0
    )
    engine = loop.run(open_engine(model, registry))
    try:
        yield EngineChat(engine)
    finally:
        engine.close()


class Served:
    """An HTTP server on an engine, at a free port of this machine, until closed."""

    def __init__(
        self,
        loop: Loop,
        chat: EngineChat,
        registry: CollectorRegistry,
        cascade: Cascade | None = None,
        **settings: Any,
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self.chat = chat
        self._loop = loop
        settings = {"security": PLAINTEXT, "listen": f"127.0.0.1:{self.port}", **settings}
        self._serving = loop.run(self._serve(registry, HttpSettings(**settings), cascade))
        self._until_bound()

    async def _serve(
        self, registry: CollectorRegistry, settings: HttpSettings, cascade: Cascade | None
    ) -> asyncio.Task[None]:
        return asyncio.create_task(serve_http(self.chat, registry, settings, cascade))

    def _until_bound(self) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline_s:
            assert not self._serving.done(), self._serving
            with contextlib.suppress(ConnectionError):
                with socket.create_connection(("127.0.0.1", self.port)) as probe:
                    # No request in any protocol: the server closes, and has forgotten it then.
                    probe.sendall(b"?\r\n\r\n")
                    while probe.recv(1 << 16):
                        pass
                return
        raise TimeoutError("the server did not come up")

    def close(self) -> None:
        async def end() -> None:
            self._serving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._serving

        self._loop.run(end())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def post(self, path: str, body: dict[str, Any], **headers: str) -> httpx.Response:
        """Ask with the key; dashes of header names are written as underscores."""
        shown = {name.replace("_", "-"): value for name, value in headers.items()}
        shown.setdefault("authorization", f"Bearer {KEY}")
        return httpx.post(f"{self.url}{path}", json=body, headers=shown, timeout=PATIENCE_S)


Serve = Callable[..., Served]
"""Starts a server with these settings."""
