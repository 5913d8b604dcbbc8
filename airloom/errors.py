"""The one exception tree of airloom; each failure knows the gRPC status it crosses the wire as."""

from __future__ import annotations

import logging
from enum import IntEnum
from pathlib import Path

log = logging.getLogger(__name__)


class Status(IntEnum):
    """The gRPC status codes in use, by number: whoever only shapes links need not load gRPC."""

    CANCELLED = 1
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


class AirloomError(Exception):
    """Any failure that airloom explains to its user."""

    status = Status.INTERNAL


class ConfigurationError(AirloomError):
    """A file or setting is wrong; says where, what was wrong and what would be right."""

    status = Status.INVALID_ARGUMENT

    def __init__(
        self,
        problem: str,
        *,
        source: str | Path | None = None,
        line: int | None = None,
        field: str | None = None,
    ) -> None:
        self.problem, self.source, self.line, self.field = problem, source, line, field
        place = "" if source is None else str(source)
        if place and line is not None:
            place += f":{line}"
        parts = [part for part in (place, field, problem) if part]
        super().__init__(": ".join(parts))


class InvalidTaskError(AirloomError):
    """A task cannot be answered as it was put."""

    status = Status.INVALID_ARGUMENT


class UnsupportedByModelError(InvalidTaskError):
    """The task is well formed, but more than this model can do; another model may answer it."""


class ConflictError(AirloomError):
    """An idempotency key was used before, for something else."""

    status = Status.ALREADY_EXISTS


class UnauthenticatedError(AirloomError):
    """Whoever asks has not shown who it is."""

    status = Status.UNAUTHENTICATED


class PermissionDeniedError(AirloomError):
    """Whoever asks may not do that; says which role may."""

    status = Status.PERMISSION_DENIED


class NotFoundError(AirloomError):
    """What the request names is not here."""

    status = Status.NOT_FOUND


class AmbiguousRunError(AirloomError):
    """A label names several runs; says which."""

    status = Status.FAILED_PRECONDITION


class ModelLoadError(AirloomError):
    """A model file is missing, broken or of a kind that cannot be run."""

    status = Status.FAILED_PRECONDITION


class DeadlineExceededError(AirloomError):
    """The time a task was given ran out."""

    status = Status.DEADLINE_EXCEEDED


class CancelledTaskError(AirloomError):
    """Whoever asked does not want the answer any more."""

    status = Status.CANCELLED


class OverloadedError(AirloomError):
    """The queue is full; try again later or elsewhere."""

    status = Status.RESOURCE_EXHAUSTED


class UnreachableError(AirloomError):
    """A peer cannot be reached."""

    status = Status.UNAVAILABLE


class LinkError(AirloomError):
    """A link could not be shaped, measured or restored."""

    status = Status.FAILED_PRECONDITION


class ControllerError(AirloomError):
    """Whoever gives the orders has fallen silent, or what comes is no order."""

    status = Status.FAILED_PRECONDITION


class UnsupportedConditionError(LinkError):
    """A backend cannot represent what was asked of a link; says why and what can."""


class ReplacedError(AirloomError):
    """A newer stream of the same identity has taken this one's place."""

    status = Status.ABORTED


class InternalError(AirloomError):
    """A defect here; its traceback is in this agent's log."""


def explained(error: Exception) -> AirloomError:
    """Return what whoever asked is told of a failure.

    One of airloom's errors is told as it is; any other is a defect: logged with its traceback, and
    told by its type alone.
    """
    if isinstance(error, AirloomError):
        return error
    log.error("unexpected %s", type(error).__name__, exc_info=error)
    return InternalError(f"an unexpected {type(error).__name__}: this agent's log says where")
