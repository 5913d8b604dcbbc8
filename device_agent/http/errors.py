"""Failures in OpenAI's form, with the HTTP status that clients act on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from airloom.errors import (
    AirloomError,
    CancelledTaskError,
    DeadlineExceededError,
    InvalidTaskError,
    OverloadedError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnreachableError,
)
from device_agent.engine.engine import EngineFailedError
from device_agent.http.schemas import ErrorBody, ErrorResponse


class ModelNotFoundError(InvalidTaskError):
    """The request names a model that is not served here."""


class BodyTooLargeError(InvalidTaskError):
    """The body has more bytes than are taken."""


class SlowBodyError(InvalidTaskError):
    """The body came too slowly to be waited for."""


_STATUS: tuple[tuple[type[AirloomError], int, str, str | None], ...] = (
    (UnauthenticatedError, 401, "authentication_error", "invalid_api_key"),
    (PermissionDeniedError, 403, "permission_error", None),
    (SlowBodyError, 408, "invalid_request_error", "body_timeout"),
    (BodyTooLargeError, 413, "invalid_request_error", "body_too_large"),
    (ModelNotFoundError, 404, "invalid_request_error", "model_not_found"),
    (InvalidTaskError, 400, "invalid_request_error", None),
    (OverloadedError, 429, "rate_limit_error", "overloaded"),
    (DeadlineExceededError, 504, "timeout_error", None),
    (CancelledTaskError, 503, "server_error", "shutting_down"),
    (UnreachableError, 503, "server_error", "unreachable"),
    (EngineFailedError, 503, "server_error", "engine_failed"),
    (AirloomError, 500, "server_error", None),
)

_KIND = re.compile(r"\[|^constrained-")
"""Pydantic's names of the kinds that a field may have: "list[constrained-str]", "literal[-1]"."""

RESPONSES: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorResponse} for code in sorted({status for _, status, _, _ in _STATUS})
}


def describe(error: AirloomError) -> tuple[int, ErrorResponse]:
    """An error's HTTP status and body."""
    for kind, status, name, code in _STATUS:
        if isinstance(error, kind):
            return status, ErrorResponse(error=ErrorBody(message=str(error), type=name, code=code))
    raise error


def response(error: AirloomError) -> JSONResponse:
    """An error as the answer to a request."""
    status, body = describe(error)
    # The client of openai tries again by itself where told when.
    headers = {"Retry-After": "1"} if status == 429 else None
    return JSONResponse(body.model_dump(), status, headers)


def fault() -> JSONResponse:
    """The answer where something was raised that nobody foresaw."""
    return response(AirloomError("this server failed: its log says why"))


async def _fault(_: Request, __: Exception) -> JSONResponse:
    return fault()


async def _airloom_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, AirloomError)
    return response(error)


def _said(errors: Sequence[Any]) -> tuple[str, str]:
    """Where a request is wrong, and what is wrong there.

    A field that may be one of several kinds has an error for each: what counts is that of the kind
    that was meant, which fits but for its value, or fits the furthest.
    """
    places = [[part for part in error["loc"] if part != "body"] for error in errors]
    field = places[0][:1]

    def meant(index: int) -> tuple[bool, bool, int]:
        kind = str(errors[index]["type"])
        literal = kind == "literal_error"
        return not (literal or kind.endswith("_type")), not literal, len(places[index])

    best = max((i for i, place in enumerate(places) if place[:1] == field), key=meant)
    shown = [str(part) for part in places[best] if not _KIND.search(str(part))]
    return ".".join(shown or map(str, field)), str(errors[best]["msg"])


async def _invalid_request(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    place, problem = _said(error.errors())
    message = f"{place}: {problem}" if place else problem
    body = ErrorBody(message=message, type="invalid_request_error", param=place or None)
    return JSONResponse(ErrorResponse(error=body).model_dump(), 400)


async def _http_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    body = ErrorBody(message=str(error.detail), type="invalid_request_error")
    return JSONResponse(ErrorResponse(error=body).model_dump(), error.status_code, error.headers)


def install(app: FastAPI) -> None:
    """Answer every failure in OpenAI's form."""
    app.add_exception_handler(AirloomError, _airloom_error)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _fault)
