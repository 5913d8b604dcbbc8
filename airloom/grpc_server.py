"""What every gRPC server here has: security, health, reflection, a clear error for a busy port."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from airloom.errors import ConfigurationError
from airloom.security import TransportSecurity

_GRACE_S = 2.0


class GrpcServer:
    """A gRPC server that says whether it serves, and drains before it stops."""

    def __init__(self, listen: str, security: TransportSecurity, services: Sequence[str]) -> None:
        self.server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        self._listen, self._services = listen, services
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]  # the stubs lack it
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.server)
        names = (*services, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self.server)
        self._bind(listen, security.server_credentials())

    def listen_locally(self, path: str) -> None:
        """Also serve on a Unix socket, whose file permissions are its protection."""
        self._bind(f"unix:{path}", None)

    def _bind(self, listen: str, credentials: grpc.ServerCredentials | None) -> None:
        if listen.startswith("unix:"):
            # A socket file left by a killed server would make the address look busy.
            Path(listen.removeprefix("unix:")).unlink(missing_ok=True)
        try:
            if credentials is None:
                self.server.add_insecure_port(listen)
            else:
                self.server.add_secure_port(listen, credentials)
        except RuntimeError as error:
            raise ConfigurationError(
                f"cannot listen on {listen!r}: the address is busy or not this machine's ({error})",
                field="listen",
            ) from error

    async def start(self) -> None:
        """Serve, and say so."""
        await self.server.start()
        for name in ("", *self._services):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        logging.getLogger(__name__).info("listening on %s", self._listen)

    async def stop(self) -> None:
        """Take no new calls, give running ones a moment, then stop."""
        await self._health.enter_graceful_shutdown()
        await self.server.stop(_GRACE_S)
