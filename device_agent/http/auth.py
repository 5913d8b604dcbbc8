"""Who asks over HTTP: an API key's name, or a client certificate's; checked before a body is read."""

from __future__ import annotations

import hashlib
import hmac

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from airloom.errors import ConfigurationError, UnauthenticatedError
from device_agent.config import read_secret
from device_agent.http import errors
from device_agent.http.settings import HttpSettings

OPEN_PATHS = frozenset({"/health"})
"""Answered to everybody."""

UNNAMED = ""
"""The name of whoever shows the key of api_key_file, or needs none."""


class KeyRing:
    """API keys by the names of those who hold them; keeps digests, compares in constant time.

    Raises:
        ConfigurationError: a file cannot be read, or two callers have the same key.
    """

    def __init__(self, settings: HttpSettings) -> None:
        files = dict(settings.api_keys)
        if settings.api_key_file is not None:
            files[UNNAMED] = settings.api_key_file
        self._digests = {name: _digest(read_secret(path)) for name, path in files.items()}
        if len(set(self._digests.values())) < len(self._digests):
            raise ConfigurationError(
                "two callers have the same key: give each its own", field="http.api_keys"
            )

    def __bool__(self) -> bool:
        return bool(self._digests)

    def holder(self, key: str) -> str | None:
        """Whose key it is; None where nobody's."""
        shown, found = _digest(key), None
        for name, digest in self._digests.items():
            # No early return: the time would tell how many keys were compared.
            if hmac.compare_digest(shown, digest):
                found = name
        return found


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


class Authentication:
    """Lets requests pass that show a key, where keys are set; says who asks in `scope["state"]`.

    Without keys, whoever the transport lets in may ask: `caller` is then the certificate's name.
    """

    def __init__(self, app: ASGIApp, keys: KeyRing) -> None:
        self._app, self._keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._keys and scope["path"] not in OPEN_PATHS:
            scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
            holder = self._keys.holder(key.strip()) if scheme.lower() == "bearer" else None
            if holder is None:
                error = UnauthenticatedError("no valid API key: send Authorization: Bearer KEY")
                response = errors.response(error)
                # Whatever body follows is not read.
                response.headers["Connection"] = "close"
                response.headers["WWW-Authenticate"] = "Bearer"
                await response(scope, receive, send)
                return
            if holder:
                scope.setdefault("state", {})["caller"] = holder
        await self._app(scope, receive, send)


def caller_of(scope: Scope) -> str:
    """Who asks: the key's name, else the certificate's, else empty."""
    caller: str = scope.get("state", {}).get("caller", UNNAMED)
    return caller
