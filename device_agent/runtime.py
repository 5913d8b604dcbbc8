"""From settings to a running engine."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from pathlib import Path

from prometheus_client import CollectorRegistry

from airloom.errors import AirloomError
from airloom.grpc_server import GrpcServer
from device_agent.config import ModelSettings
from device_agent.engine import Engine, EngineSettings, Model
from device_agent.engine.chat_template import SAY_ANOTHER_TEMPLATE, TemplateChoice
from device_agent.engine.memory_estimate import (
    MemoryNeed,
    available_bytes,
    check_fits,
    estimate,
    read_shape,
)
from device_agent.metrics import CompletionMetrics, EngineCollector

log = logging.getLogger(__name__)

_LAST_WORDS_S = 1.0
"""Between the failure of the engine and the end of the agent."""


def memory_need(settings: ModelSettings) -> MemoryNeed:
    """What the settings' model, draft and projector will need together."""
    whole = _need(settings, settings.path)
    if settings.draft is not None:
        draft = _need(settings, settings.draft)
        whole = replace(
            whole,
            weights=whole.weights + draft.weights,
            cache=whole.cache + draft.cache,
            compute=whole.compute + draft.compute,
        )
    extra = [settings.projector, *(adapter.path for adapter in settings.adapters)]
    files = sum(path.stat().st_size for path in extra if path is not None and path.exists())
    return replace(whole, weights=whole.weights + files)


def _need(settings: ModelSettings, path: Path) -> MemoryNeed:
    need = estimate(
        read_shape(path),
        parallel=settings.parallel,
        context_tokens=settings.context_tokens,
        batch_tokens=settings.batch_tokens,
        key_value_type=settings.key_value_type,
        outputs=settings.parallel * (1 + settings.draft_tokens),
        embeddings=settings.embeddings,
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


def open_model(settings: ModelSettings) -> Model:
    """Load the settings' model; what is wrong with its chat template is logged.

    Raises:
        ModelLoadError: the file is missing or broken, or the template that the settings name is.
    """
    model = Model(
        settings.path,
        name=settings.name or "",
        template=TemplateChoice(settings.chat_template, settings.chat_template_fallback),
    )
    chosen = model.chat_template
    if chosen.problem and model.causal:
        instead = (
            f"it continues text only, until {SAY_ANOTHER_TEMPLATE}"
            if chosen.template is None
            else f"{chosen.template.origin} is used"
        )
        log.warning("%s: %s; %s", settings.path, chosen.problem, instead)
    return model


async def open_engine(settings: ModelSettings, registry: CollectorRegistry) -> Engine:
    """Load the model and all that belongs to it; its figures can be read from the registry.

    Raises:
        ModelLoadError: a file is missing, broken or of another model, or it would not fit.
    """
    check_fits(settings.path, memory_need(settings), available_bytes())
    engine = Engine(
        open_model(settings),
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
            embeddings=settings.embeddings,
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
