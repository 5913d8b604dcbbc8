"""Run quantised models through llama.cpp's low-level API, many requests at once."""

from collaboration.confidence import Confidence
from device_agent.engine.engine import Engine, EngineFailedError
from device_agent.engine.generation import Generation, HandedOverError, OnText
from device_agent.engine.hold import Hold
from device_agent.engine.model import Model, ModelDescription
from device_agent.engine.requests import (
    IMAGE_MARK,
    AdapterUse,
    Completion,
    Delta,
    GenerateRequest,
    Image,
    Sampling,
    Token,
)
from device_agent.engine.sequence_state import SequenceState
from device_agent.engine.settings import EngineSettings

__all__ = [
    "IMAGE_MARK",
    "AdapterUse",
    "Completion",
    "Confidence",
    "Delta",
    "Engine",
    "EngineFailedError",
    "EngineSettings",
    "GenerateRequest",
    "Generation",
    "HandedOverError",
    "Hold",
    "Image",
    "Model",
    "ModelDescription",
    "OnText",
    "Sampling",
    "SequenceState",
    "Token",
]
