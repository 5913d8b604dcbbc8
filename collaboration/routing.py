"""When a device keeps its own answer."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from airloom.settings_file import Settings
from collaboration.confidence import Confidence


class RoutingSettings(Settings):
    """When a device answers by itself."""

    measure: Literal["sequence_probability", "mean_probability", "min_margin"] = Field(
        "sequence_probability", description="of a device's confidence in its answer, 0 to 1"
    )
    threshold: float = Field(0.5, ge=0, le=1, description="below it the question is sent up")
    cloud_share: float = Field(
        0.25,
        ge=0,
        lt=1,
        description="of a task's time, kept for asking the cloud while it is connected: the device's "
        "own attempt ends that much before the deadline; 0 leaves the device all of it",
    )


def confidence_value(confidence: Confidence, measure: str) -> float:
    """Reduce a completion's confidence to one number from 0 to 1 by the named measure."""
    if measure == "sequence_probability":
        return confidence.sequence_probability
    if measure == "mean_probability":
        return math.exp(confidence.mean_logprob)
    return max(0.0, confidence.min_margin)


def keeps_own_answer(value: float, settings: RoutingSettings) -> bool:
    """A confidence threshold, inclusive."""
    return value >= settings.threshold
