"""The gRPC status that an error crosses the wire as."""

from __future__ import annotations

import grpc

from airloom.errors import AirloomError

_CODES = {code.value[0]: code for code in grpc.StatusCode}


def grpc_status(error: AirloomError) -> grpc.StatusCode:
    """Return the status code that gRPC calls are ended with for this error."""
    return _CODES[int(error.status)]
