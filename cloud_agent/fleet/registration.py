"""A device's first message, checked before anything is kept of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator

from airloom.concurrency import within
from airloom.errors import AirloomError, InvalidTaskError, OverloadedError, Status
from airloom.identity import Caller
from airloom.log_text import one_line
from airloom.stream import PROTOCOL
from protos.airloom.v1 import fleet_pb2, inference_pb2

_STRING_CHARACTERS = 256
_MODEL_STRINGS = ("name", "architecture", "quantisation", "sha256")


class ProtocolError(AirloomError):
    """The other side speaks another protocol, or another version."""

    status = Status.FAILED_PRECONDITION


class SilentError(AirloomError):
    """Nobody said who is there within the time."""

    status = Status.DEADLINE_EXCEEDED


async def read_registration(
    requests: AsyncIterator[fleet_pb2.ConnectRequest], timeout_s: float
) -> fleet_pb2.Registration:
    """Wait for the first message of a stream, which must be a registration.

    Raises:
        SilentError: it did not come in time.
        InvalidTaskError: it is something else, or a field is wrong.
        ProtocolError: it speaks another protocol.
    """
    try:
        first = await within(anext(requests, None), timeout_s)
    except asyncio.TimeoutError:
        raise SilentError(f"no registration came within {timeout_s:g} s") from None
    if first is None or not first.HasField("registration"):
        raise InvalidTaskError("the first message must be a registration")
    registration = first.registration
    if registration.protocol != PROTOCOL:
        raise ProtocolError(
            f"this cloud speaks {PROTOCOL}, not {one_line(registration.protocol, 64)!r}"
        )
    _check_model(registration.model)
    return registration


def _check_model(model: inference_pb2.ModelInfo) -> None:
    for field in _MODEL_STRINGS:
        value: str = getattr(model, field)
        if len(value) > _STRING_CHARACTERS or not value.isprintable():
            raise InvalidTaskError(
                f"registration.model.{field} is {one_line(value, 40)!r}: it should be at most "
                f"{_STRING_CHARACTERS} printable characters"
            )


class StreamCounts:
    """How many streams there are, and how many of each certificate have not registered yet."""

    def __init__(self, streams: int, unregistered: int) -> None:
        """`unregistered` is the most of one certificate; other callers share `streams`."""
        self._most_streams, self._most_unregistered = streams, unregistered
        self._streams = 0
        self._unregistered: Counter[str] = Counter()

    @contextlib.contextmanager
    def stream(self) -> Iterator[None]:
        """Count a stream while this block runs; OverloadedError where there are too many."""
        if self._streams >= self._most_streams:
            raise OverloadedError(f"this cloud has {self._streams} streams, which is the most")
        self._streams += 1
        try:
            yield
        finally:
            self._streams -= 1

    @contextlib.contextmanager
    def handshake(self, caller: Caller) -> Iterator[None]:
        """Count a stream that has not registered; OverloadedError where its caller has too many."""
        if not caller.authenticated:
            yield
            return
        if self._unregistered[caller.name] >= self._most_unregistered:
            raise OverloadedError(
                f"{self._unregistered[caller.name]} streams of {caller.name!r} have not registered "
                "yet: that is the most"
            )
        self._unregistered[caller.name] += 1
        try:
            yield
        finally:
            self._unregistered[caller.name] -= 1
            if not self._unregistered[caller.name]:
                del self._unregistered[caller.name]
