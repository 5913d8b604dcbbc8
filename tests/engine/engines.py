"""Real engines on the shipped models."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from device_agent.engine import (
    Completion,
    Engine,
    EngineSettings,
    GenerateRequest,
    Generation,
    Model,
    SequenceState,
)

sys.path.insert(0, str(Path(__file__).parents[1]))
from gates import Clock, Gate
from shipped import MODELS, ROOT

__all__ = ["MODELS", "ROOT", "Clock", "Gate", "MakeEngine", "suspended", "together"]


class MakeEngine:
    """Opens engines, on the model of that name or file; closes them all."""

    def __init__(self) -> None:
        self._engines: list[Engine] = []

    def __call__(
        self,
        model: str | Path = "mathematics",
        *,
        projector: Path | None = None,
        draft: str | Path | None = None,
        **settings: Any,
    ) -> Engine:
        settings.setdefault("threads", 1)
        engine = Engine(
            Model(_file(model)),
            EngineSettings(**settings),
            projector=projector,
            draft=None if draft is None else Model(_file(draft)),
        )
        self._engines.append(engine)
        return engine

    def close(self) -> None:
        for engine in self._engines:
            engine.close()


def _file(model: str | Path) -> Path:
    return model if isinstance(model, Path) else MODELS[model]


async def together(
    engine: Engine, requests: Iterable[GenerateRequest], gate: Gate
) -> list[Completion]:
    """Generate them side by side: the last is queued before the first has had its first pass."""
    gate.shut()
    generations = [await engine.start(request, stream=False) for request in requests]
    gate.open()
    return [await generation.completion() for generation in generations]


async def suspended(generation: Generation, gate: Gate) -> SequenceState:
    """Take a generation that the gate holds out of its engine."""
    await gate.held()
    leaving = asyncio.ensure_future(generation.suspend())
    await asyncio.sleep(0)
    gate.open()
    return await leaving
