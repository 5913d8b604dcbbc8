"""A served engine for tests of the HTTP API."""

import asyncio
import socket
import sys
import threading
import time
from pathlib import Path

import httpx
from prometheus_client import CollectorRegistry

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
from engines import MODELS

from device_agent.chat import EngineChat
from device_agent.config import ModelSettings
from device_agent.http.server import serve_http
from device_agent.http.settings import HttpSecurity, HttpSettings
from device_agent.runtime import open_engine

KEY = "a-key-for-tests"

PATIENCE_S = 120.0
"""How long anything may take here: a machine may be slow, and busy with other things."""


class Served:
    """An agent's engine and HTTP server on a thread with an event loop of its own."""

    def __init__(self, key_file: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self._settings = HttpSettings(
            listen=self.address,
            security=HttpSecurity(plaintext=True),
            api_key_file=key_file,
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._run()))
        self.chat: EngineChat | None = None

    async def _run(self) -> None:
        registry = CollectorRegistry()
        model = ModelSettings(
            path=MODELS["mathematics"], threads=1, context_tokens=384, stream_interval_ms=0
        )
        engine = await open_engine(model, registry)
        self.chat = EngineChat(engine)
        self._serving = asyncio.ensure_future(serve_http(self.chat, registry, self._settings))
        try:
            await self._serving
        except asyncio.CancelledError:
            pass
        finally:
            await asyncio.to_thread(engine.close)

    def __enter__(self) -> "Served":
        self._thread.start()
        deadline_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline_s:
            try:
                if httpx.get(f"http://{self.address}/health").status_code == 200:
                    return self
            except httpx.TransportError:
                assert self._thread.is_alive()
        raise TimeoutError("the server did not come up")

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._serving.cancel)
        self._thread.join()
        self._loop.close()

    @property
    def url(self) -> str:
        return f"http://{self.address}"
