"""What a device sends as a result is read by whoever asked: numbers that are none must not reach it."""

from __future__ import annotations

import math

from airloom.errors import UnreachableError
from protos.airloom.v1 import task_pb2

_STATUS_CODES = range(1, 17)
"""Of gRPC, but OK."""


def require_sound(result: task_pb2.TaskResult, device_id: str) -> None:
    """Check a device's result.

    Raises:
        UnreachableError: it is none; names the field, for the board's own agent is at fault.
    """
    fault = _fault(result)
    if fault:
        raise UnreachableError(f"{device_id} sent a result that is none: {fault}")


def _fault(result: task_pb2.TaskResult) -> str:
    outcome = result.WhichOneof("outcome")
    if outcome is None:
        return "it has neither answer nor error"
    for field, value in result.timing.ListFields():
        if isinstance(value, float) and not 0 <= value < math.inf:
            return f"timing.{field.name} is {value}: it should be finite and not negative"
    if outcome == "error":
        code = result.error.code
        return "" if code in _STATUS_CODES else f"error.code is {code}: it should be 1 to 16"
    confidence = result.answer.confidence
    for name in ("value", "sequence_probability", "min_margin"):
        number = getattr(confidence, name)
        if not -1 <= number <= 1:
            return f"answer.confidence.{name} is {number}: it should be a share"
    for name in ("mean_logprob", "mean_entropy_nats"):
        if math.isnan(getattr(confidence, name)):
            return f"answer.confidence.{name} is not a number"
    return ""
