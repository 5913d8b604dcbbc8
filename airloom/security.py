"""Transport security: mutual TLS, or plaintext where it is asked for in so many words."""

from __future__ import annotations

from pathlib import Path

import grpc
from pydantic import model_validator

from airloom.errors import ConfigurationError
from airloom.settings_file import FilePath, Settings


class TransportSecurity(Settings):
    """PEM files for mutual TLS; or `plaintext: true` and none of them."""

    ca: FilePath | None = None
    certificate: FilePath | None = None
    key: FilePath | None = None
    plaintext: bool = False

    @model_validator(mode="after")
    def _all_or_plaintext(self) -> TransportSecurity:
        given = [self.ca, self.certificate, self.key]
        if self.plaintext and any(given):
            raise ValueError("plaintext: true and TLS files exclude each other")
        if not self.plaintext and not all(given):
            raise ValueError(
                "give ca, certificate and key (`testbed certificates` makes them), "
                "or say plaintext: true"
            )
        return self

    def _read(self, path: Path | None) -> bytes:
        assert path is not None
        try:
            return path.read_bytes()
        except OSError as error:
            raise ConfigurationError(f"cannot be read: {error.strerror}", source=path) from error

    def server_credentials(self) -> grpc.ServerCredentials | None:
        """Credentials that require a client certificate of the CA; None for plaintext."""
        if self.plaintext:
            return None
        pair = (self._read(self.key), self._read(self.certificate))
        return grpc.ssl_server_credentials(
            [pair], root_certificates=self._read(self.ca), require_client_auth=True
        )

    def channel_credentials(self) -> grpc.ChannelCredentials | None:
        """Credentials that show a client certificate; None for plaintext."""
        if self.plaintext:
            return None
        return grpc.ssl_channel_credentials(
            self._read(self.ca), self._read(self.key), self._read(self.certificate)
        )


def open_channel(
    address: str, security: TransportSecurity, options: list[tuple[str, int]] | None = None
) -> grpc.aio.Channel:
    """Open a channel as the settings say."""
    credentials = security.channel_credentials()
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=options)
    return grpc.aio.secure_channel(address, credentials, options=options)
