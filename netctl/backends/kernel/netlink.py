"""A netlink socket for traffic control: requests with acknowledgement, and dumps.

Only what qdiscs, classes and filters need. A change of a class takes one send and one receive.
"""

from __future__ import annotations

import itertools
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from airloom.errors import LinkError
from netctl.linux import network_namespace

RTM_NEWQDISC, RTM_DELQDISC, RTM_GETQDISC = 36, 37, 38
RTM_NEWTCLASS, RTM_DELTCLASS, RTM_GETTCLASS = 40, 41, 42
RTM_NEWTFILTER, RTM_DELTFILTER, RTM_GETTFILTER = 44, 45, 46

NLM_F_EXCL, NLM_F_CREATE, NLM_F_REPLACE = 0x200, 0x400, 0x100
NLM_F_REQUEST, NLM_F_ACK, NLM_F_ECHO, NLM_F_DUMP = 0x1, 0x4, 0x8, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
_SOL_NETLINK, _NETLINK_EXT_ACK = 270, 11
_NLM_F_CAPPED, _NLM_F_ACK_TLVS = 0x100, 0x200
_HEADER = struct.Struct("=IHHII")
_TC = struct.Struct("=BxxxiIII")
_ATTRIBUTE = struct.Struct("=HH")
_TCA_KIND, _TCA_OPTIONS, _TCA_STATS2 = 1, 2, 7
_NESTED = 0x8000
RECEIVE_BYTES = 1 << 18
TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class TrafficControl:
    """One message about a qdisc, class or filter."""

    interface: int
    handle: int = 0
    parent: int = 0
    info: int = 0
    kind: str = ""
    options: bytes = b""


def attribute(kind: int, payload: bytes) -> bytes:
    """One netlink attribute, padded."""
    length = _ATTRIBUTE.size + len(payload)
    return _ATTRIBUTE.pack(length, kind) + payload + bytes(-length % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | _NESTED, b"".join(attributes))


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Split attributes: (kind, payload) of each."""
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            return
        yield kind & ~_NESTED, data[at + _ATTRIBUTE.size : at + length]
        at += length + (-length % 4)


def messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Split what was received: kind, flags, sequence number and payload of each message."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, flags, number, _ = _HEADER.unpack_from(data, at)
        yield kind, flags, number, data[at + _HEADER.size : at + length]
        at += length + (-length % 4)


def packed(kind: int, flags: int, number: int, payload: bytes) -> bytes:
    """One message."""
    return _HEADER.pack(_HEADER.size + len(payload), kind, flags, number, 0) + payload


class Netlink:
    """A connection to the traffic control of one network namespace (None: the present one)."""

    def __init__(self, namespace: str | None = None) -> None:
        with network_namespace(namespace):
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
            )
            self._control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((0, 0))
        self._socket.settimeout(TIMEOUT_S)
        # The kernel says in words what was wrong, where it knows.
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        self._sequence = itertools.count(1)
        self._indices: dict[str, int] = {}

    def close(self) -> None:
        self._socket.close()
        self._control.close()

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def index(self, interface: str) -> int:
        """An interface's number; LinkError where there is none of that name."""
        import fcntl

        if interface not in self._indices:
            request = struct.pack("16si20x", interface.encode(), 0)
            try:
                answer = fcntl.ioctl(self._control, 0x8933, request)
            except OSError as error:
                raise LinkError(f"interface {interface}: {error.strerror}") from error
            self._indices[interface] = struct.unpack_from("=i", answer, 16)[0]
        return self._indices[interface]

    def request(self, kind: int, message: TrafficControl, flags: int = 0) -> None:
        """Ask the kernel to do something; LinkError with its own words where it refuses."""
        self.request_all([(kind, message, flags)])

    def request_all(self, requests: Sequence[tuple[int, TrafficControl, int]]) -> None:
        """Several requests in one system call; LinkError where any is refused."""
        for refused in self.attempt_all(requests):
            if refused is not None:
                raise refused

    def attempt_all(
        self, requests: Sequence[tuple[int, TrafficControl, int]]
    ) -> list[LinkError | None]:
        """Several requests in one system call; why each was refused, None where it was not."""
        numbers: dict[int, int] = {}
        parts = []
        for place, (kind, message, flags) in enumerate(requests):
            number = next(self._sequence)
            numbers[number] = place
            parts.append(_pack(kind, message, NLM_F_REQUEST | NLM_F_ACK | flags, number))
        self._socket.send(b"".join(parts))
        refused: list[LinkError | None] = [None] * len(requests)
        while numbers:
            for kind, flags, number, payload in messages(self._socket.recv(RECEIVE_BYTES)):
                if kind != NLMSG_ERROR or number not in numbers:
                    continue
                place = numbers.pop(number)
                (status,) = struct.unpack_from("=i", payload)
                if status:
                    words = _words(payload, flags) or os.strerror(-status)
                    of_kind = requests[place][1].kind or "traffic control"
                    refused[place] = LinkError(f"{of_kind}: {words}")
        return refused

    def statistics(self, kind: int, message: TrafficControl) -> dict[int, bytes]:
        """The statistics of one qdisc or class: TCA_STATS2's attributes."""
        number = next(self._sequence)
        # Without ECHO only listeners to all changes would hear the answer.
        self._socket.send(_pack(kind, message, NLM_F_REQUEST | NLM_F_ECHO, number))
        while True:
            for answer, _, their_number, payload in messages(self._socket.recv(RECEIVE_BYTES)):
                if their_number != number:
                    continue
                if answer == NLMSG_ERROR:
                    (status,) = struct.unpack_from("=i", payload)
                    raise LinkError(f"traffic control: {os.strerror(-status)}")
                found = dict(attributes(payload[_TC.size :]))
                return dict(attributes(found.get(_TCA_STATS2, b"")))

    def dump(self, kind: int, interface: int, parent: int = 0) -> list[TrafficControl]:
        """All qdiscs, classes or filters of an interface."""
        number = next(self._sequence)
        message = TrafficControl(interface, parent=parent)
        self._socket.send(_pack(kind, message, NLM_F_REQUEST | NLM_F_DUMP, number))
        found: list[TrafficControl] = []
        while True:
            for answer, _, their_number, payload in messages(self._socket.recv(RECEIVE_BYTES)):
                if their_number != number:
                    continue
                if answer == NLMSG_DONE:
                    return found
                if answer == NLMSG_ERROR:
                    (status,) = struct.unpack_from("=i", payload)
                    raise LinkError(f"traffic control: {os.strerror(-status)}")
                one = _unpack(payload)
                if one.interface == interface:
                    found.append(one)


def _pack(kind: int, message: TrafficControl, flags: int, number: int) -> bytes:
    body = _TC.pack(0, message.interface, message.handle, message.parent, message.info)
    if message.kind:
        body += attribute(_TCA_KIND, message.kind.encode() + b"\0")
    if message.options:
        body += attribute(_TCA_OPTIONS | _NESTED, message.options)
    return packed(kind, flags, number, body)


def _unpack(payload: bytes) -> TrafficControl:
    _, interface, handle, parent, info = _TC.unpack_from(payload)
    kind, options = "", b""
    for number, value in attributes(payload[_TC.size :]):
        if number == _TCA_KIND:
            kind = value.rstrip(b"\0").decode()
        elif number == _TCA_OPTIONS:
            options = value
    return TrafficControl(interface, handle, parent, info, kind, options)


def _words(payload: bytes, flags: int) -> str:
    """What the kernel says of a refusal, besides the number."""
    if not flags & _NLM_F_ACK_TLVS:
        return ""
    at = 4 + _HEADER.size
    if not flags & _NLM_F_CAPPED:
        (length,) = struct.unpack_from("=I", payload, 4)
        at = 4 + length + (-length % 4)
    for kind, value in attributes(payload[at:]):
        if kind == 1:
            return value.rstrip(b"\0").decode(errors="replace").strip()
    return ""
