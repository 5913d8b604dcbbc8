"""Who calls: the name and the roles that its certificate says, never what a field says."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Any

import grpc

from airloom.errors import InvalidTaskError, PermissionDeniedError, UnauthenticatedError

NAME_PATTERN = r"^[A-Za-z0-9_.-]{1,64}$"
"""Of agents, in settings and certificates alike."""

ROLE_URI = "airloom:role/"
"""Precedes a role among the URIs of a certificate's subject alternative names."""

ROLE_DOMAIN = ".role.airloom"
"""Follows a role among its DNS names; no agent and no host may be called so."""


class Role(str, Enum):
    """What a caller may do; a certificate without a role is a device's."""

    DEVICE = "device"
    """Registers as itself, asks, answers what it was handed."""
    COORDINATOR = "coordinator"
    """A device that also lists its team, hands it tasks and cancels its own."""
    OPERATOR = "operator"
    """May do all."""
    CLOUD = "cloud"
    """What devices dial."""


def role_host(role: Role) -> str:
    """The DNS name that a certificate with the role has, so that whoever dials can ask for it."""
    return f"{role.value}{ROLE_DOMAIN}"


def certificate_command(name: str = "NAME", role: Role | None = None) -> str:
    """The command that makes the certificate which an error says is missing."""
    flag = "" if role is None else f"--role {role.value} "
    return f"testbed certificates --out FOLDER {flag}{name}"


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever is at the other end of a call."""

    name: str
    """Empty where nothing vouches for one."""
    roles: frozenset[Role]
    authenticated: bool
    """Whether a certificate, or the permissions of a local socket, vouch for it."""
    owner: str = ""
    """Whose its runs and idempotency keys are: the same for no two callers that can be told apart."""
    trusted: bool = False
    """Whether the name that a field claims counts."""

    @property
    def is_operator(self) -> bool:
        return Role.OPERATOR in self.roles

    def registered_name(self, claimed: str) -> str:
        """The name under which the caller registers: its certificate's.

        Raises:
            PermissionDeniedError: it claims another's name, or may not register.
            UnauthenticatedError: nothing vouches for the name.
        """
        if not self.authenticated and not self.trusted:
            raise UnauthenticatedError(
                "without a certificate nobody can register, except where the server's security "
                f"says trust_names: true ({certificate_command()} makes certificates)"
            )
        self.require(Role.DEVICE, to="register")
        name = claimed or self.name
        if not re.fullmatch(NAME_PATTERN, name):
            raise InvalidTaskError(
                f"registration.device_id: {name[:64]!r} is no name: 1 to 64 letters, digits, _ . -"
            )
        if name != self.name and not self.is_operator:
            raise PermissionDeniedError(
                f"registration.device_id is {name}, but the certificate is that of {self.name}: "
                f"set device_id: {self.name}, or make a certificate ({certificate_command(name)})"
            )
        return name

    def require(self, *allowed: Role, to: str) -> None:
        """Raise PermissionDeniedError unless the caller has one of the roles, or is an operator."""
        if self.is_operator or self.roles.intersection(allowed):
            return
        wanted = " or ".join(role.value for role in (*allowed, Role.OPERATOR))
        mine = ", ".join(sorted(role.value for role in self.roles)) or "none"
        raise PermissionDeniedError(
            f"to {to} takes the role {wanted}; {self.name or 'this caller'} has {mine} "
            f"({certificate_command(role=(allowed or (Role.OPERATOR,))[0])})"
        )


LOCAL_OPERATOR = Caller("local", frozenset({Role.OPERATOR}), True, "socket")
"""Whoever may open a Unix socket: its file permissions are the check."""


def caller_of(context: grpc.aio.ServicerContext[Any, Any], *, trust_names: bool = False) -> Caller:
    """Say who calls.

    In plaintext a caller is an unknown device; with `trust_names` it is an operator, and the name
    that it claims in a field counts.

    Raises:
        UnauthenticatedError: the certificate has no name that could be an agent's.
    """
    peer = context.peer()
    if peer.startswith("unix:"):
        return LOCAL_OPERATOR
    properties = context.auth_context()
    if list(properties.get("transport_security_type", ())) != [b"ssl"]:
        host = peer.rpartition(":")[0]
        role = Role.OPERATOR if trust_names else Role.DEVICE
        return Caller("", frozenset({role}), False, f"address {host}", trust_names)
    names = [entry.decode() for entry in properties.get("peer_dns", ())]
    if not names or not re.fullmatch(NAME_PATTERN, names[0]):
        raise UnauthenticatedError(
            f"the certificate's first DNS name is {names[0] if names else 'missing'!r}: it should be "
            f"the agent's name ({certificate_command()})"
        )
    uris = [entry.decode() for entry in properties.get("peer_uri", ())]
    said = {uri.removeprefix(ROLE_URI) for uri in uris if uri.startswith(ROLE_URI)}
    roles = {role for role in Role if role.value in said} or {Role.DEVICE}
    if Role.COORDINATOR in roles:
        roles.add(Role.DEVICE)
    return Caller(names[0], frozenset(roles), True, f"certificate {names[0]}")
