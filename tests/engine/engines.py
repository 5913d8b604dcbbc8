"""Real engines on the shipped models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from device_agent.engine import Engine, EngineSettings, Model

ROOT = Path(__file__).parents[2]
MODELS = {
    name: ROOT / f"models/airloom-{name}.Q8_0.gguf"
    for name in ("mathematics", "knowledge", "symbolic", "cloud")
}


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
