"""/health says whether anything is answered, and why not."""

import asyncio

import httpx
import pytest
from engines import MODELS
from prometheus_client import CollectorRegistry

from device_agent.chat import EngineChat
from device_agent.engine import Engine, EngineFailedError, EngineSettings, GenerateRequest, Model
from device_agent.http.app import create_app
from device_agent.http.settings import HttpSecurity, HttpSettings


async def test_an_engine_that_has_failed_is_not_healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(Model(MODELS["mathematics"]), EngineSettings(threads=1))
    settings = HttpSettings(listen="127.0.0.1:1", security=HttpSecurity(plaintext=True))
    app = create_app(EngineChat(engine), CollectorRegistry(), settings)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://agent") as client:
        healthy = await client.get("/health")
        assert (healthy.status_code, healthy.json()["status"]) == (200, "ok")

        def defect() -> None:
            raise RuntimeError("a defect in the loop")

        monkeypatch.setattr(engine._loop.scheduler, "next_group", defect)
        with pytest.raises(EngineFailedError, match="RuntimeError: a defect in the loop"):
            await engine.generate(GenerateRequest("1+1"))
        failed = await client.get("/health")
        assert failed.status_code == 503
        assert failed.json() == {
            "status": "failed",
            "reason": "the engine failed: RuntimeError: a defect in the loop",
        }
        asked = {"model": engine.description.name, "prompt": "1+1"}
        assert (await client.post("/v1/completions", json=asked)).status_code == 503
    await asyncio.to_thread(engine.close)
