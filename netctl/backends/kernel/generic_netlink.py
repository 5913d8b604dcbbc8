"""A generic netlink socket: families by name, requests with acknowledgement, and dumps."""

from __future__ import annotations

import itertools
import os
import socket
import struct
from collections.abc import Iterator

from airloom.errors import LinkError, UnsupportedConditionError
from netctl.backends.kernel.netlink import (
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    RECEIVE_BYTES,
    TIMEOUT_S,
    attribute,
    attributes,
    messages,
    packed,
)
from netctl.linux import network_namespace

_NETLINK_GENERIC = 16
_GENERIC = struct.Struct("=BBH")
_CONTROL_FAMILY, _GET_FAMILY = 0x10, 3
_FAMILY_ID, _FAMILY_NAME = 1, 2


class GenericNetlink:
    """A connection to one family, in one network namespace (None: the present one).

    Raises:
        UnsupportedConditionError: this kernel has no such family.
    """

    def __init__(self, family: str, namespace: str | None = None) -> None:
        with network_namespace(namespace):
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_GENERIC
            )
        self._socket.bind((0, 0))
        self._socket.settimeout(TIMEOUT_S)
        self._sequence = itertools.count(1)
        self.family = family
        self._number = _CONTROL_FAMILY
        name = attribute(_FAMILY_NAME, family.encode() + b"\0")
        try:
            (answer,) = self.request(_GET_FAMILY, name)
        except LinkError as error:
            self.close()
            raise UnsupportedConditionError(f"this kernel has no {family} ({error})") from error
        (self._number,) = struct.unpack_from("=H", answer[_FAMILY_ID])

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> GenericNetlink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def request(self, command: int, payload: bytes) -> list[dict[int, bytes]]:
        """Ask for something; the attributes of each answer. LinkError where it is refused."""
        return list(self._exchange(command, payload, NLM_F_ACK))

    def dump(self, command: int, payload: bytes) -> list[dict[int, bytes]]:
        """Ask for all there is; the attributes of each."""
        return list(self._exchange(command, payload, NLM_F_DUMP))

    def _exchange(self, command: int, payload: bytes, flags: int) -> Iterator[dict[int, bytes]]:
        number = next(self._sequence)
        body = _GENERIC.pack(command, 1, 0) + payload
        self._socket.send(packed(self._number, NLM_F_REQUEST | flags, number, body))
        while True:
            for kind, _, theirs, payload in messages(self._socket.recv(RECEIVE_BYTES)):
                if theirs != number:
                    continue
                if kind == NLMSG_DONE:
                    return
                if kind == NLMSG_ERROR:
                    (status,) = struct.unpack_from("=i", payload)
                    if status:
                        raise LinkError(f"{self.family}: {os.strerror(-status)}")
                    return
                yield dict(attributes(payload[_GENERIC.size :]))
