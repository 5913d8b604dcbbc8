"""The gRPC status that an error crosses the wire as."""

from __future__ import annotations

import asyncio
from typing import Any, NoReturn

import grpc

from airloom.concurrency import within
from airloom.errors import AirloomError, CancelledTaskError
from airloom.log_text import one_line

_CODES = {code.value[0]: code for code in grpc.StatusCode}

_DETAILS_CHARACTERS = 1000
"""Details travel in a header, whose size is limited."""
_END_TIMEOUT_S = 1.0


def grpc_status(error: AirloomError) -> grpc.StatusCode:
    """Return the status code that gRPC calls are ended with for this error."""
    return _CODES[int(error.status)]


async def write(context: grpc.aio.ServicerContext[Any, Any], message: object) -> None:
    """Write a message of a stream; raises CancelledTaskError where the caller has left."""
    try:
        await context.write(message)
    except grpc.aio.InternalError as error:
        raise CancelledTaskError("the caller left before it was told all") from error


async def end_call(context: grpc.aio.ServicerContext[Any, Any], error: AirloomError) -> NoReturn:
    """End a call with an error's status; without one where the caller reads nothing any more."""
    details = one_line(error, _DETAILS_CHARACTERS)
    try:
        await within(context.abort(grpc_status(error), details), _END_TIMEOUT_S)
    except asyncio.TimeoutError:
        raise asyncio.CancelledError from None
    raise AssertionError("abort does not return")
