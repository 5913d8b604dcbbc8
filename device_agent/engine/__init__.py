"""Run quantised models through llama.cpp's low-level API."""

from device_agent.engine.confidence import Confidence
from device_agent.engine.engine import Completion, Engine, GenerateRequest
from device_agent.engine.model import Model, ModelDescription

__all__ = ["Completion", "Confidence", "Engine", "GenerateRequest", "Model", "ModelDescription"]
