"""Transport security: mutual TLS, or plaintext where it is asked for in so many words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import grpc
from pydantic import Field, model_validator

from airloom.errors import ConfigurationError
from airloom.identity import Role, certificate_command, role_host
from airloom.settings_file import FilePath, Settings

_WRONG_NAME = "Hostname Verification Check failed"
"""gRPC's words for a server whose certificate lacks the name that was asked for."""


class TransportSecurity(Settings):
    """PEM files for mutual TLS; or `plaintext: true` and none of them."""

    ca: FilePath | None = Field(
        None, description="the authority whose certificates the other end must have"
    )
    certificate: FilePath | None = Field(
        None, description="this end's own; its name and roles are who this is (NAME.crt)"
    )
    key: FilePath | None = Field(None, description="the certificate's private key (NAME.key)")
    plaintext: bool = Field(False, description="no TLS: whoever is on the way reads and writes")

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


class ServerSecurity(TransportSecurity):
    """How a server is reached, and whom it believes."""

    trust_names: bool = Field(
        False,
        description="only with plaintext: true: believe the name that a caller claims, and let it "
        "do all that an operator may; for links that nobody else can reach",
    )

    @model_validator(mode="after")
    def _certificates_say_names(self) -> ServerSecurity:
        if self.trust_names and not self.plaintext:
            raise ValueError("trust_names is for plaintext: true; certificates say who calls")
        return self


def open_channel(
    address: str,
    security: TransportSecurity,
    options: Sequence[tuple[str, int | str]] = (),
    *,
    role: Role | None = None,
) -> grpc.aio.Channel:
    """Open a channel as the settings say.

    Over TLS the other end's certificate must have the role, or without one the address's host name.
    """
    credentials = security.channel_credentials()
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=options)
    if role is not None:
        # gRPC checks a certificate's names and nothing else: so roles have a name each.
        options = [*options, ("grpc.ssl_target_name_override", role_host(role))]
    return grpc.aio.secure_channel(address, credentials, options=options)


def why_refused(details: str, role: Role) -> str:
    """Write why a server dialled with a role was not reached; says what its certificate lacks."""
    if _WRONG_NAME not in details:
        return details
    return (
        f"its certificate does not have the role {role.value} "
        f"({certificate_command(role=role)} makes one that has)"
    )
