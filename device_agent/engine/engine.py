"""One model served to many: generations, embeddings, adapters.

The engine owns what llama.cpp has allocated, and the life of the thread that decodes. Every pass through
the model mixes the next token of each running generation with parts of the prompts that are being
read. Generations join and leave between passes; cancellation and deadlines take effect there.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
import threading
from collections.abc import Awaitable
from collections.abc import Sequence as Sequences
from concurrent.futures import Future
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from airloom.errors import (
    AirloomError,
    CancelledTaskError,
    ModelLoadError,
    UnsupportedByModelError,
    explained,
)
from device_agent.engine.adapter_contexts import AdapterContexts
from device_agent.engine.adapters import Adapter, Adapters
from device_agent.engine.admission import Admission
from device_agent.engine.context import Context
from device_agent.engine.embeddings import LONGEST_TEXT, Embedder, EmbeddingQueue
from device_agent.engine.generation import Generation
from device_agent.engine.images import Vision
from device_agent.engine.job import Job
from device_agent.engine.loop import DecodeLoop
from device_agent.engine.model import Model, ModelDescription
from device_agent.engine.plan import Planner
from device_agent.engine.requests import Completion, GenerateRequest
from device_agent.engine.runner import Runner
from device_agent.engine.sequence import Sequence
from device_agent.engine.sequence_state import SequenceState
from device_agent.engine.settings import EngineSettings
from device_agent.engine.speculative import Drafter
from device_agent.engine.statistics import EngineStatistics, Observer

log = logging.getLogger(__name__)


class EngineFailedError(AirloomError):
    """The engine met something it was not made for, and has stopped."""


class Engine:
    """Serves generations and embeddings from one model, which is the engine's from now on.

    Raises:
        ModelLoadError: a context cannot be had, or the projector or draft is of another model; all is
            freed then, the models too.
    """

    def __init__(
        self,
        model: Model,
        settings: EngineSettings,
        *,
        projector: Path | None = None,
        draft: Model | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.model = model
        self.settings = settings
        self.statistics = EngineStatistics()
        self.adapters = Adapters(model)
        self.failed: EngineFailedError | None = None
        """Why it has stopped by itself; whoever asks then gets this error."""
        self._vision: Vision | None = None
        self._drafter: Drafter | None = None
        self._natives = contextlib.ExitStack()
        """What llama.cpp has allocated, freed in the opposite order."""
        try:
            self._open(projector, draft)
        except BaseException:
            self._natives.close()
            raise
        context = self._context = self._contexts.first.context
        self._admission = Admission(model, context, self.adapters, self._vision)
        self._natives.callback(self._admission.close)
        self._loop = DecodeLoop(
            settings,
            contexts=self._contexts,
            adapters=self.adapters,
            planner=Planner(
                settings,
                batch_tokens=context.batch_tokens,
                context_tokens=context.context_tokens,
                slots=context.sequences,
                drafter=self._drafter,
            ),
            runner=Runner(self._vision),
            statistics=self.statistics,
            observer=observer,
        )
        self._embeddings = EmbeddingQueue(lambda: self._embedder)
        self._lock = threading.Lock()
        self._watchers: list[Future[EngineFailedError]] = []
        self._closing = False
        self._thread = threading.Thread(target=self._live, name="decode", daemon=True)
        self._thread.start()

    def _open(self, projector: Path | None, draft: Model | None) -> None:
        model, settings, natives = self.model, self.settings, self._natives
        natives.callback(model.close)
        if draft is not None:
            natives.callback(draft.close)
        outputs = settings.parallel * (1 + (settings.draft_tokens if draft is not None else 0))
        self._contexts = AdapterContexts(
            lambda: Context(
                model,
                sequences=settings.parallel,
                context_tokens=settings.context_tokens,
                batch_tokens=settings.batch_tokens,
                threads=settings.threads,
                outputs=outputs,
                key_value_type=settings.key_value_type,
            ),
            most=settings.contexts,
            slots=settings.parallel,
        )
        natives.callback(self._contexts.close)
        if projector is not None:
            self._vision = Vision(model, projector, threads=settings.threads)
            natives.callback(self._vision.close)
        if draft is not None:
            if not self._contexts.first.context.can_cut:
                raise ModelLoadError(
                    f"{model.path}: no model can draft for this one: its memory is a state, from "
                    "which a wrong guess cannot be taken back"
                )
            self._drafter = Drafter(
                draft,
                model,
                slots=settings.parallel * settings.contexts,
                context_tokens=self._contexts.first.context.context_tokens,
                threads=settings.threads,
            )
            natives.callback(self._drafter.close)

    # What callers on an event loop use.

    @cached_property
    def description(self) -> ModelDescription:
        """The model as this engine runs it."""
        return replace(
            self.model.description,
            context_tokens=self.context_tokens,
            reads_images=self._vision is not None,
        )

    @property
    def context_tokens(self) -> int:
        """How long a prompt and its completion may be together."""
        return self._context.context_tokens

    async def generate(self, request: GenerateRequest) -> Completion:
        """Generate one completion; cancelling the coroutine stops it.

        Raises:
            OverloadedError: the queue is full.
            DeadlineExceededError: the deadline passed while queued or while decoding.
            InvalidTaskError: the request cannot be met by this model.
        """
        generation = await self.start(request, stream=False)
        return await generation.follow()

    async def start(self, request: GenerateRequest, *, stream: bool = True) -> Generation:
        """Queue a generation; raises as `generate` does, before anything is queued."""
        self._check_open()
        return await self._enter(self._admission.admit(request), None, stream=stream)

    @property
    def max_state_bytes(self) -> int:
        """More than a generation that fills its context is suspended to."""
        return self._admission.max_state_bytes

    async def read_state(self, data: bytes) -> SequenceState:
        """Read what `SequenceState.to_bytes` wrote, off the event loop.

        Raises:
            InvalidTaskError: it is something else, was changed, or has more than `max_state_bytes`.
        """
        self._check_open()
        return await self._admission.read_state(data)

    async def resume(
        self, state: SequenceState, *, stream: bool = True, deadline_s: float | None = None
    ) -> Generation:
        """Go on with a generation that was suspended in another engine.

        It ends by its own deadline or by `deadline_s` (on time.monotonic()'s clock).

        Raises:
            InvalidTaskError: it belongs to another model, cache layout or adapter file, or is none
                that this engine could have made.
        """
        self._check_open()
        state = state.due(deadline_s)
        return await self._enter(self._admission.resume(state), state.memory, stream=stream)

    async def tokenize(self, text: str) -> list[int]:
        """Split a text that is no longer than the context.

        Raises:
            InvalidTaskError: it is longer.
            OverloadedError: too much text is being worked on.
        """
        self._check_open()
        return await self._admission.tokenizer.tokenize(text, most_tokens=self.context_tokens)

    async def embed(self, texts: Sequences[str]) -> list[tuple[NDArray[np.float32], int]]:
        """Embed texts; for each a vector (width,) of length 1 and the number of its tokens.

        Raises:
            InvalidTaskError: a text has no tokens, or too many.
            UnsupportedByModelError: the model embeds no texts, or is set not to.
        """
        if not self.settings.embeddings:
            raise UnsupportedByModelError(
                f"{self.description.name} embeds no texts here: its settings say embeddings: false"
            )
        results = []
        for text in texts:
            self._check_open()
            tokens = await self._admission.tokenizer.tokenize(text, most_tokens=LONGEST_TEXT)
            embedded, turns_begin = self._embeddings.add(tokens)
            if turns_begin:
                self._loop.chores.repeat(self._embeddings.take_turn)
            results.append((await asyncio.wrap_future(embedded), len(tokens)))
        return results

    async def load_adapter(self, name: str, path: Path) -> Adapter:
        """Load a LoRA file, between two passes."""
        self._check_open()
        loading = self._loop.chores.add(lambda: self.adapters.load(name, path))
        return await asyncio.wrap_future(loading)

    async def until_failed(self) -> EngineFailedError:
        """Wait until the engine has stopped by itself, and return why.

        A defect of one generation ends that generation only: this is for defects of the loop.
        """
        watcher: Future[EngineFailedError] = Future()
        with self._lock:
            if self.failed is not None:
                return self.failed
            self._watchers.append(watcher)
        return await asyncio.wrap_future(watcher)

    def close(self) -> None:
        """Stop after the current pass, answer all with CancelledTaskError, free everything.

        A second call does nothing.
        """
        with self._lock:
            if self._closing:
                return
            self._closing = True
        self._loop.stop()
        self._thread.join()
        self._natives.close()

    def _check_open(self) -> None:
        if self.failed is not None:
            raise copy.copy(self.failed)
        # What is closed has freed its memory: not even a tokenizer is left.
        if self._closing:
            raise CancelledTaskError("the engine is closing")

    async def _enter(
        self, admission: Awaitable[Sequence], memory: bytes | None, *, stream: bool
    ) -> Generation:
        try:
            sequence = await admission
        except Exception as error:
            raise explained(error) from error
        generation = Generation(asyncio.get_running_loop(), stream=stream, wake=self._loop.wake)
        try:
            self._loop.scheduler.enter(Job(generation, sequence, self._contexts.first, memory))
        except AirloomError:
            if sequence.grammar is not None:
                sequence.grammar.close()
            raise
        return generation

    # The engine's thread.

    def _live(self) -> None:
        try:
            self._loop.run()
        except BaseException as error:
            # A defect of ours must not leave anybody waiting.
            log.exception("the engine failed")
            failed = EngineFailedError(f"the engine failed: {type(error).__name__}: {error}")
            self._fail(failed)
        else:
            self._loop.end_all(CancelledTaskError("the engine is closing"))

    def _fail(self, failed: EngineFailedError) -> None:
        with self._lock:
            self.failed = failed
            watchers, self._watchers = self._watchers, []
        try:
            self._loop.end_all(failed)
        finally:
            for watcher in watchers:
                if watcher.set_running_or_notify_cancel():
                    watcher.set_result(failed)

    @cached_property
    def _embedder(self) -> Embedder:
        embedder = Embedder(self.model, threads=self.settings.threads)
        self._natives.callback(embedder.close)
        return embedder
