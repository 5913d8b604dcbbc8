"""Serving the HTTP application beside the gRPC server, on the same event loop."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl

from prometheus_client import CollectorRegistry

from airloom.errors import ConfigurationError
from device_agent.cascade import Cascade
from device_agent.chat import EngineChat
from device_agent.http.settings import HttpSettings, Place

log = logging.getLogger(__name__)


async def serve_http(
    chat: EngineChat,
    registry: CollectorRegistry,
    settings: HttpSettings,
    cascade: Cascade | None = None,
    *,
    place: Place = "device",
) -> None:
    """Serve OpenAI's API on an engine, and a cascade where there is one, until cancelled.

    Raises:
        ConfigurationError: the address is busy or not this machine's, or a key cannot be read.
    """
    # The web framework takes 20 MiB, which boards that serve no HTTP do not load.
    import uvicorn

    from device_agent.http.app import create_app
    from device_agent.http.connections import QuietServer, guarded

    security = settings.security
    config = uvicorn.Config(
        create_app(chat, registry, settings, cascade, place=place),
        http=guarded(settings.limits),
        ws="none",
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_keep_alive=settings.limits.keep_alive_s,
        timeout_graceful_shutdown=2,
        ssl_certfile=security.certificate,
        ssl_keyfile=str(security.key) if security.key else None,
        ssl_ca_certs=str(security.ca) if security.ca else None,
        ssl_cert_reqs=ssl.CERT_REQUIRED if security.ca else ssl.CERT_NONE,
    )
    server = QuietServer(config)
    with _bound(settings.listen) as listening:
        log.info("HTTP on %s", settings.listen)
        serving = asyncio.ensure_future(server.serve([listening]))
        try:
            await asyncio.shield(serving)
        finally:
            # Lets running answers end, for as long as the configuration says.
            server.should_exit = True
            await serving


def _bound(listen: str) -> socket.socket:
    host, _, port = listen.rpartition(":")
    try:
        listening = socket.create_server((host.strip("[]"), int(port)), backlog=512)
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on {listen!r}: {error.strerror}", field="http.listen"
        ) from error
    # Connections inherit it. Without it a token waits for the acknowledgement of the one before,
    # which the other side delays by 40 ms.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening
