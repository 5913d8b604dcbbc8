"""What every gRPC server here has: security, limits, health, reflection, clear errors for addresses."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from pydantic import Field

from airloom.errors import ConfigurationError
from airloom.grpc_errors import ErrorInterceptor
from airloom.security import TransportSecurity
from airloom.settings_file import Settings
from airloom.stream.limits import LARGEST_CHUNK_BYTES

_GRACE_S = 2.0
_UNIX = "unix:"


class ServerLimits(Settings):
    """How much a gRPC server takes from those who connect."""

    message_bytes: int = Field(
        4 << 20, ge=2 * LARGEST_CHUNK_BYTES, description="of one request, or part of a stream"
    )
    calls_per_connection: int = Field(1024, ge=1, description="at once; more wait at the client")
    connections: int = Field(8192, ge=1, description="at once; more are closed")
    handshake_timeout_s: float = Field(10.0, gt=0, description="until a connection speaks HTTP/2")
    headers_bytes: int = Field(16 << 10, ge=1 << 10, description="of one request's headers")

    def channel_arguments(self) -> list[tuple[str, int]]:
        """As gRPC names them."""
        return [
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", self.message_bytes),
            ("grpc.max_concurrent_streams", self.calls_per_connection),
            ("grpc.max_allowed_incoming_connections", self.connections),
            ("grpc.server_handshake_timeout_ms", round(self.handshake_timeout_s * 1e3)),
            ("grpc.max_metadata_size", self.headers_bytes),
            ("grpc.absolute_max_metadata_size", self.headers_bytes),
            # Of TLS: each connection holds a buffer of this size, and a thousand are mostly idle.
            ("grpc.tsi.max_frame_size", 2048),
            # Notes on each connection, for a debugging service that is not offered here.
            ("grpc.enable_channelz", 0),
            ("grpc.max_channel_trace_event_memory_per_node", 0),
            # Connections whose other end is gone without a word are closed.
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.keepalive_timeout_ms", 20_000),
        ]


class GrpcServer:
    """A gRPC server that says whether it serves, and drains before it stops."""

    def __init__(
        self,
        listen: str,
        security: TransportSecurity,
        services: Sequence[str],
        limits: ServerLimits | None = None,
    ) -> None:
        arguments = (limits or ServerLimits()).channel_arguments()
        self.server = grpc.aio.server(interceptors=[ErrorInterceptor()], options=arguments)
        self._listen, self._services = listen, services
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]  # the stubs lack it
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.server)
        names = (*services, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self.server)
        self._bind(listen, security.server_credentials())

    def listen_locally(self, path: str) -> None:
        """Also serve on a Unix socket, whose file permissions are its protection."""
        self._bind(f"{_UNIX}{path}", None)

    def _bind(self, listen: str, credentials: grpc.ServerCredentials | None) -> None:
        is_local = listen.startswith(_UNIX)
        if is_local:
            _clear_socket(Path(listen.removeprefix(_UNIX)))
        try:
            with _owner_only() if is_local else contextlib.nullcontext():
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

    async def withdraw(self) -> None:
        """Say for good that nothing is served any more; calls are still taken."""
        await self._health.enter_graceful_shutdown()

    async def stop(self) -> None:
        """Take no new calls, give running ones a moment, then stop."""
        await self.withdraw()
        await self.server.stop(_GRACE_S)


def _clear_socket(path: Path) -> None:
    """Remove the socket of a process that was killed: it would make the address look busy.

    Raises:
        ConfigurationError: a living process listens there, or the file is no socket.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigurationError(
            f"{path}: cannot be looked at: {error.strerror}", field="listen"
        ) from error
    if not stat.S_ISSOCK(mode):
        raise ConfigurationError(f"{path} is there and is no socket", field="listen")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise ConfigurationError(
                f"cannot take the socket {path}: {error.strerror}", field="listen"
            ) from error
    raise ConfigurationError(
        f"cannot listen on the socket {path}: a running process does already", field="listen"
    )


@contextlib.contextmanager
def _owner_only() -> Iterator[None]:
    """Files made in this block are their owner's alone."""
    before = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(before)
