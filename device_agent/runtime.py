"""From settings to a running engine."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from prometheus_client import CollectorRegistry

from airloom.errors import AirloomError
from airloom.grpc_server import GrpcServer
from device_agent.config import ModelSettings
from device_agent.engine import Engine, EngineSettings, Model
from device_agent.engine.memory_estimate import (
    MemoryNeed,
    available_bytes,
    check_fits,
    estimate,
    read_shape,
)
from device_agent.metrics import CompletionMetrics, EngineCollector

_LAST_WORDS_S = 1.0
"""Between the failure of the engine and the end of the agent."""


def memory_need(settings: ModelSettings) -> MemoryNeed:
    """What the settings' model, draft and projector will need together."""
    whole = _need(settings, settings.path)
    if settings.draft is not None:
        draft = _need(settings, settings.draft)
        whole = MemoryNeed(
            whole.weights + draft.weights, whole.cache + draft.cache, whole.compute + draft.compute
        )
    extra = [settings.projector, *(adapter.path for adapter in settings.adapters)]
    files = sum(path.stat().st_size for path in extra if path is not None and path.exists())
    return MemoryNeed(whole.weights + files, whole.cache, whole.compute)


def _need(settings: ModelSettings, path: Path) -> MemoryNeed:
    need = estimate(
        read_shape(path),
        parallel=settings.parallel,
        context_tokens=settings.context_tokens,
        batch_tokens=settings.batch_tokens,
        key_value_type=settings.key_value_type,
        outputs=settings.parallel * (1 + settings.draft_tokens),
    )
    contexts = settings.adapter_contexts
    return replace(need, cache=need.cache * contexts, compute=need.compute * contexts)


async def until_engine_failed(engine: Engine, server: GrpcServer) -> None:
    """Wait until an engine has stopped by itself, say by health that nothing is served, and raise why.

    Raises:
        EngineFailedError: always; it ends the agent.
    """
    failed = await engine.until_failed()
    await server.withdraw()
    # Whoever waited is told, and whoever asks for health learns the reason.
    await asyncio.sleep(_LAST_WORDS_S)
    raise failed


async def open_engine(settings: ModelSettings, registry: CollectorRegistry) -> Engine:
    """Load the model and all that belongs to it; its figures can be read from the registry.

    Raises:
        ModelLoadError: a file is missing, broken or of another model, or it would not fit.
    """
    check_fits(settings.path, memory_need(settings), available_bytes())
    engine = Engine(
        Model(settings.path),
        EngineSettings(
            threads=settings.threads,
            parallel=settings.parallel,
            context_tokens=settings.context_tokens,
            batch_tokens=settings.batch_tokens,
            queue_length=settings.queue_length,
            key_value_type=settings.key_value_type,
            stall_s=settings.stall_ms / 1e3,
            stream_interval_s=settings.stream_interval_ms / 1e3,
            draft_tokens=settings.draft_tokens,
            contexts=settings.adapter_contexts,
        ),
        projector=settings.projector,
        draft=None if settings.draft is None else Model(settings.draft),
        observer=CompletionMetrics(registry),
    )
    try:
        for adapter in settings.adapters:
            await engine.load_adapter(adapter.name, adapter.path)
    except AirloomError:
        engine.close()
        raise
    registry.register(EngineCollector(engine.statistics))
    return engine
