"""When a device keeps its own answer."""

from __future__ import annotations

import math

from device_agent.config import RoutingSettings
from device_agent.engine.confidence import Confidence


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
