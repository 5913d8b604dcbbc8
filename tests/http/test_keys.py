"""Who may ask, and under which name: API keys, and certificates of the server and of clients."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from pydantic import ValidationError
from serving import MODEL, PATIENCE_S, Serve

from airloom.errors import ConfigurationError
from device_agent.chat import EngineChat
from device_agent.engine.engine import EngineFailedError
from device_agent.http.auth import KeyRing
from device_agent.http.settings import HttpSettings
from testbed.certificates import issue, make_authority

PLAINTEXT = {"plaintext": True}


def key_files(folder: Path, **keys: str) -> dict[str, Path]:
    for name, key in keys.items():
        (folder / name).write_text(key + "\n")
    return {name: folder / name for name in keys}


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_each_key_is_known_by_its_holders_name(serve: Serve, tmp_path: Path) -> None:
    files = key_files(tmp_path, ann="key-of-ann", bob="key-of-bob", common="key-of-nobody")
    common = files.pop("common")
    server = serve(api_keys=files, api_key_file=common)
    for key in ("key-of-ann", "key-of-bob", "key-of-bob", "key-of-nobody"):
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, timeout=PATIENCE_S)
        assert [model.id for model in client.models.list()] == [MODEL]
    refused = httpx.get(f"{server.url}/v1/models", headers=bearer("key-of-eve"))
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == "Bearer"
    metrics = httpx.get(f"{server.url}/metrics", headers=bearer("key-of-nobody")).text
    for caller, count in (("ann", 1), ("bob", 2), ("", 1)):
        line = f'airloom_http_requests_total{{caller="{caller}",status="200"}} {count}.0'
        assert line in metrics
    assert 'airloom_http_requests_total{caller="",status="401"} 1.0' in metrics


@pytest.mark.parametrize("path", ["/metrics", "/openapi.json", "/v1/models", "/nowhere"])
def test_all_but_health_needs_a_key_where_keys_are_set(
    path: str, serve: Serve, tmp_path: Path
) -> None:
    server = serve(api_keys=key_files(tmp_path, ann="key-of-ann"))
    for headers in (
        {},
        {"Authorization": "Bearer"},
        bearer("key-of-an"),
        {"Authorization": "key-of-ann"},
    ):
        assert httpx.get(server.url + path, headers=headers).status_code == 401
    assert httpx.get(f"{server.url}/health").json()["status"] == "ok"


def test_without_keys_whoever_reaches_the_server_may_ask(serve: Serve) -> None:
    server = serve()
    for path in ("/metrics", "/openapi.json", "/v1/models"):
        assert httpx.get(server.url + path).status_code == 200


def test_two_callers_cannot_have_one_key(tmp_path: Path) -> None:
    files = key_files(tmp_path, ann="same", bob="same")
    with pytest.raises(ConfigurationError, match="two callers have the same key"):
        KeyRing(HttpSettings(security=PLAINTEXT, api_keys=files))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"security": {}}, "give ca, certificate and key"),
        (
            {"security": {"certificate": "a", "key": "b", "client_certificates": "none"}},
            "needs at least one API key",
        ),
        (
            {"security": {"plaintext": True, "client_certificates": "none"}},
            "client_certificates: none is about TLS",
        ),
        (
            {"security": {"certificate": "a", "client_certificates": "none"}},
            "give certificate and key",
        ),
        ({"security": PLAINTEXT, "api_keys": {"ann\n": "a"}}, "api_keys"),
        ({"security": PLAINTEXT, "limits": {"bodies_bytes": 2048}}, "at least body_bytes"),
    ],
)
def test_settings_that_would_let_anybody_in_are_refused(
    settings: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValidationError, match=says):
        HttpSettings(**settings)


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    make_authority(tmp_path)
    issue(tmp_path, "board", ["127.0.0.1"])
    issue(tmp_path, "ann")
    return tmp_path


def tls(folder: Path, name: str, **more: str) -> dict[str, str]:
    return {"certificate": str(folder / f"{name}.crt"), "key": str(folder / f"{name}.key"), **more}


def test_clients_without_certificates_are_served_by_tls_with_a_key(
    serve: Serve, authority: Path
) -> None:
    security = tls(authority, "board", client_certificates="none")
    server = serve(security=security, api_keys=key_files(authority, app="key-of-app"))
    url = server.url.replace("http:", "https:")
    trusted = ssl.create_default_context(cafile=str(authority / "ca.crt"))
    with httpx.Client(verify=trusted, timeout=PATIENCE_S) as client:
        assert client.get(f"{url}/v1/models", headers=bearer("key-of-app")).status_code == 200
        assert client.get(f"{url}/v1/models").status_code == 401
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{server.url}/health")


def test_with_mutual_tls_the_certificate_says_who_asks(serve: Serve, authority: Path) -> None:
    ca = str(authority / "ca.crt")
    server = serve(security=tls(authority, "board", ca=ca))
    url = server.url.replace("http:", "https:")
    trusted = ssl.create_default_context(cafile=ca)
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{url}/health", verify=trusted)
    own = tls(authority, "ann")
    trusted.load_cert_chain(own["certificate"], own["key"])
    with httpx.Client(verify=trusted, timeout=PATIENCE_S) as client:
        assert client.get(f"{url}/v1/models").status_code == 200
        metrics = client.get(f"{url}/metrics").text
    assert 'airloom_http_requests_total{caller="ann",status="200"} 1.0' in metrics


def test_a_failed_engine_is_told_to_whoever_asks(
    serve: Serve, chat: EngineChat, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    monkeypatch.setattr(chat.engine, "failed", EngineFailedError("the engine failed: no memory"))
    answer = httpx.get(f"{server.url}/health")
    assert answer.status_code == 503
    assert answer.json() == {"status": "failed", "reason": "the engine failed: no memory"}
    refused = server.post("/v1/embeddings", {"model": MODEL, "input": "a"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_failed")
