"""Real engines on the shipped models."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from device_agent.engine import Engine, EngineSettings, Model

sys.path.insert(0, str(Path(__file__).parents[1]))
from shipped import MODELS, ROOT

__all__ = ["MODELS", "ROOT", "MakeEngine"]


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
