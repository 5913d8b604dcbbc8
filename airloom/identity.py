"""Who calls: the name and the roles that its certificate says, never what a field says."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Any

import grpc

from airloom.errors import PermissionDeniedError, UnauthenticatedError

NAME_PATTERN = r"^[A-Za-z0-9_.-]{1,64}$"
"""Of agents, in settings and certificates alike."""

ROLE_URI = "airloom:role/"
"""Precedes a role among the URIs of a certificate's subject alternative names."""


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


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever is at the other end of a call."""

    name: str
    """Empty where neither a certificate nor a trusted field says it."""
    roles: frozenset[Role]
    authenticated: bool
    """Whether a certificate, or the permissions of a local socket, vouch for it."""

    def require(self, *allowed: Role, to: str) -> None:
        """Raise PermissionDeniedError unless the caller has one of the roles, or is an operator."""
        if Role.OPERATOR in self.roles or self.roles.intersection(allowed):
            return
        wanted = " or ".join(role.value for role in (*allowed, Role.OPERATOR))
        mine = ", ".join(sorted(role.value for role in self.roles)) or "none"
        raise PermissionDeniedError(
            f"to {to} takes the role {wanted}; {self.name or 'this caller'} has {mine} "
            f"(testbed certificates NAME --role {(allowed or (Role.OPERATOR,))[0].value})"
        )


LOCAL_OPERATOR = Caller("local", frozenset({Role.OPERATOR}), True)
"""Whoever may open a Unix socket: its file permissions are the check."""


def caller_of(context: grpc.aio.ServicerContext[Any, Any]) -> Caller:
    """Say who calls.

    Raises:
        UnauthenticatedError: the certificate has no name that could be an agent's.
    """
    if context.peer().startswith("unix:"):
        return LOCAL_OPERATOR
    properties = context.auth_context()
    if not properties.get("transport_security_type"):
        return Caller("", frozenset({Role.DEVICE}), False)
    names = [entry.decode() for entry in properties.get("peer_dns", ())]
    if not names or not re.fullmatch(NAME_PATTERN, names[0]):
        raise UnauthenticatedError(
            f"the certificate's first DNS name is {names[0] if names else 'missing'!r}: it should be "
            "the agent's name (testbed certificates NAME)"
        )
    uris = [entry.decode() for entry in properties.get("peer_uri", ())]
    said = {uri.removeprefix(ROLE_URI) for uri in uris if uri.startswith(ROLE_URI)}
    roles = frozenset(role for role in Role if role.value in said) or frozenset({Role.DEVICE})
    return Caller(names[0], roles, True)
