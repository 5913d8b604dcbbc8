"""Run quantised models through llama.cpp's low-level API, many requests at once."""

from collaboration.confidence import Confidence
from device_agent.engine.engine import Engine, EngineSettings
from device_agent.engine.generation import Generation, OnText
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

__all__ = [
    "IMAGE_MARK",
    "AdapterUse",
    "Completion",
    "Confidence",
    "Delta",
    "Engine",
    "EngineSettings",
    "GenerateRequest",
    "Generation",
    "Image",
    "Model",
    "ModelDescription",
    "OnText",
    "Sampling",
    "SequenceState",
    "Token",
]
