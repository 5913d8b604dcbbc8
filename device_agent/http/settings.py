"""Settings of the HTTP server: where it listens, who may ask, and how much at once."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from airloom.identity import NAME_PATTERN
from airloom.security import TransportSecurity
from airloom.settings_file import FilePath, Settings

Place = Literal["device", "cloud"]
"""Where a server's own model runs."""

KeyName = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]


class HttpSecurity(TransportSecurity):
    """TLS, mutual or of the server alone; or `plaintext: true` and none of the files."""

    client_certificates: Literal["required", "none"] = Field(
        "required",
        description="`none` serves clients without certificates of their own: they show an API key, "
        "and `ca` is not needed",
    )

    @model_validator(mode="after")
    def _all_or_plaintext(self) -> HttpSecurity:
        if self.client_certificates == "required":
            # The same rule as for gRPC.
            TransportSecurity(
                ca=self.ca, certificate=self.certificate, key=self.key, plaintext=self.plaintext
            )
            return self
        if self.plaintext:
            raise ValueError("client_certificates: none is about TLS: leave it out in plaintext")
        if self.ca is not None:
            raise ValueError("ca checks clients' certificates: leave it out, or ask for them")
        if self.certificate is None or self.key is None:
            raise ValueError("give certificate and key (`testbed certificates` makes them)")
        return self


class HttpLimits(Settings):
    """What one server takes on; whatever is over a limit is refused before it costs memory."""

    body_bytes: int = Field(
        16 << 20, ge=1024, description="of one request; beyond it 413, before it is read"
    )
    bodies_bytes: int = Field(
        64 << 20, ge=1024, description="of all requests that are being answered; beyond it 429"
    )
    body_values: int = Field(
        400_000, ge=100, description="elements and fields of one JSON body; beyond it 400"
    )
    header_bytes: int = Field(32 << 10, ge=1024, description="of one request; beyond it 431")
    header_timeout_s: float = Field(
        10.0, gt=0, description="from a connection's or a request's first byte to its last header"
    )
    body_timeout_s: float = Field(
        20.0, gt=0, description="for a body; each 500 bytes of it that came add a second"
    )
    write_timeout_s: float = Field(
        120.0, gt=0, description="for which a client may leave an answer unread; then it is cut off"
    )
    keep_alive_s: int = Field(30, ge=1, description="for which an idle connection is kept")
    connections: int = Field(
        512,
        ge=1,
        description="at once; beyond it the one that has waited longest without a request is closed, "
        "and where none does the new one is answered 503",
    )
    requests_of_a_caller: int = Field(
        256,
        ge=1,
        description="at once, by one API key or certificate (all together where there are neither); "
        "beyond it 429",
    )

    @model_validator(mode="after")
    def _one_body_fits(self) -> HttpLimits:
        if self.bodies_bytes < self.body_bytes:
            raise ValueError("bodies_bytes must be at least body_bytes")
        return self


class HttpSettings(Settings):
    """OpenAI's API, health and metrics over HTTP."""

    listen: str = Field("127.0.0.1:8080", pattern=r"^.+:[0-9]+$", description="host:port")
    security: HttpSecurity
    api_keys: dict[KeyName, FilePath] = Field(
        default={},
        description="names of callers, each with the file that holds its key on its first line; "
        "clients send it as a bearer token",
    )
    api_key_file: FilePath | None = Field(
        None, description="a single key without a caller's name, as a file like those of api_keys"
    )
    limits: HttpLimits = HttpLimits()

    @model_validator(mode="after")
    def _callers_are_known(self) -> HttpSettings:
        keys = bool(self.api_keys) or self.api_key_file is not None
        if self.security.client_certificates == "none" and not keys:
            raise ValueError(
                "client_certificates: none needs at least one API key (api_keys or api_key_file): "
                "else anybody could ask"
            )
        return self
