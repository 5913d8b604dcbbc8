"""Many generations at once through one model: a decode loop on a thread of its own.

Every pass through the model mixes the next token of each running generation with parts of the
prompts that are being read. Generations join and leave between passes; cancellation and deadlines
take effect there.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Sequences
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from airloom.errors import (
    AirloomError,
    CancelledTaskError,
    DeadlineExceededError,
    InvalidTaskError,
    ModelLoadError,
    OverloadedError,
)
from collaboration.confidence import TokenScore, score_tokens
from device_agent.engine.adapter_contexts import AdapterContext, AdapterContexts
from device_agent.engine.adapters import BASE, Adapter, Adapters
from device_agent.engine.admission import Admission
from device_agent.engine.batch_padding import BatchPadding, padding_for
from device_agent.engine.context import Batch, Context, DecodeError, KeyValueType
from device_agent.engine.embeddings import LONGEST_TEXT, Embedder
from device_agent.engine.generation import Event, Generation
from device_agent.engine.images import Vision
from device_agent.engine.model import Model, ModelDescription
from device_agent.engine.prefill_budget import PrefillBudget, share_out
from device_agent.engine.prefix_cache import Slot
from device_agent.engine.requests import (
    Alternative,
    Completion,
    GenerateRequest,
    Token,
)
from device_agent.engine.sequence import Sequence
from device_agent.engine.sequence_state import SequenceState
from device_agent.engine.speculative import Drafter
from device_agent.engine.statistics import EngineStatistics, Observer
from device_agent.engine.steady_decode import decode_steadily
from device_agent.engine.trial import Trial

T = TypeVar("T")

_TURN_PASSES = 8
"""For one set of adapters while others wait."""

_STEADY_PASSES, _STEADY_S = 256, 0.25
"""How long running generations are left to themselves: what they have made is counted after that."""

_HEAD_START_S = 0.001
"""For the first piece of a lonely stream: whoever passes it on would wait for who decodes the next."""

log = logging.getLogger(__name__)


class EngineFailedError(AirloomError):
    """The engine met something it was not made for, and has stopped."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How much an engine takes on."""

    threads: int
    parallel: int = 4
    """Generations at once."""
    context_tokens: int = 0
    """Of each generation; 0 is what the model was trained with."""
    batch_tokens: int = 512
    """Of one pass."""
    queue_length: int = 64
    """Requests that wait while all places are taken."""
    key_value_type: KeyValueType = "f16"
    stall_s: float = 0.5
    """For how long reading a prompt may hold up running generations."""
    draft_tokens: int = 4
    """Proposed at a time, where there is a draft model."""
    stream_interval_s: float = 0.0
    """What a stream says within this time after its last piece is told together, as one piece."""
    contexts: int = 1
    """With more than one, sets of adapters get one each: changing them costs nothing, but memory."""


_Group = tuple[int, int]


@dataclass(eq=False)
class _Job:
    generation: Generation
    sequence: Sequence
    adapter_context: AdapterContext
    memory: bytes | None = None
    """Keys and values of a generation that was handed over."""
    told_s: float = -math.inf
    """When its stream was told something last."""

    @property
    def group(self) -> _Group:
        """What a pass can hold together: one adapter_context, one set of adapters."""
        return self.adapter_context.number, self.sequence.set_in_use.key

    def late(self, now_s: float) -> bool:
        deadline_s = self.sequence.request.deadline_s
        return deadline_s is not None and now_s >= deadline_s

    def interrupted(self, now_s: float) -> bool:
        """Whether somebody or the clock wants it to leave."""
        generation = self.generation
        return generation.cancelled or generation.suspending or self.late(now_s)


@dataclass(slots=True)
class _Plan:
    """What one pass does."""

    adapter_context: AdapterContext
    jobs: list[_Job]
    decoding: int
    """How many of the jobs do; the others read their prompts."""
    drafting: bool
    drafts: dict[Sequence, list[int]] = field(default_factory=dict)
    shares: dict[Sequence, int] = field(default_factory=dict)
    """How much is read of each prompt."""
    padding: BatchPadding = field(default_factory=BatchPadding)
    taking: list[_Job] = field(default_factory=list)
    """Whose next tokens come out."""

    @property
    def reading(self) -> bool:
        return self.decoding < len(self.jobs)


@dataclass(slots=True)
class _Chosen:
    """The tokens that came next in one sequence."""

    job: _Job
    row: int
    """Of the logits that the first was chosen from; those of the others follow."""
    tokens: list[int]
    in_memory: int
    """How many of the sequence's tokens the context remembers by now, wrong guesses included."""


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
        self._observer = observer
        self._vision: Vision | None = None
        self._drafter: Drafter | None = None
        self._natives = contextlib.ExitStack()
        """What llama.cpp has allocated, freed in the opposite order."""
        try:
            self._open(projector, draft)
        except BaseException:
            self._natives.close()
            raise
        self._context = self._contexts.first.context
        self._admission = Admission(model, self._context, self.adapters, self._vision)
        self._natives.callback(self._admission.close)
        self._drafting, self._widening = Trial(), Trial()
        self._batch = Batch(self._context.batch_tokens)
        self._budget = PrefillBudget(self._context.batch_tokens, settings.stall_s)
        self._turn = (0, BASE.key)
        self._served: dict[_Group, int] = {}
        self._turn_ends = 0
        self._active: list[_Job] = []
        self._waiting: deque[_Job] = deque()
        self._chores: deque[Callable[[], None]] = deque()
        self._outbox: list[tuple[Generation, Event]] = []
        self._changed = threading.Condition()
        self._began_to_tell = False
        """Whether a stream has had its first piece since it was last looked at."""
        self._closing = False
        self._closed = False
        self._thread = threading.Thread(target=self._loop, name="decode", daemon=True)
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
        sequence = await self._admission.admit(request)
        return self._enqueue(
            _Job(
                Generation(asyncio.get_running_loop(), stream=stream),
                sequence,
                self._contexts.first,
            )
        )

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
        sequence = await self._admission.resume(state)
        generation = Generation(asyncio.get_running_loop(), stream=stream)
        return self._enqueue(_Job(generation, sequence, self._contexts.first, state.memory))

    async def tokenize(self, text: str) -> list[int]:
        """Split a text that is no longer than the context.

        Raises:
            InvalidTaskError: it is longer.
            OverloadedError: too much text is being worked on.
        """
        self._check_open()
        return await self._admission.tokenizer.tokenize(text, most_tokens=self.context_tokens)

    async def embed(self, texts: Sequences[str]) -> list[tuple[NDArray[np.float32], int]]:
        """Embed texts; for each a vector (width,) of length 1 and the number of its tokens."""
        results = []
        for text in texts:
            self._check_open()
            tokens = await self._admission.tokenizer.tokenize(text, most_tokens=LONGEST_TEXT)
            vector = await self._on_thread(functools.partial(self._embed, tokens))
            results.append((vector, len(tokens)))
        return results

    async def load_adapter(self, name: str, path: Path) -> Adapter:
        """Load a LoRA file, between two passes."""
        return await self._on_thread(lambda: self.adapters.load(name, path))

    def close(self) -> None:
        """Stop after the current pass, answer all with CancelledTaskError, free everything.

        A second call does nothing.
        """
        with self._changed:
            if self._closed:
                return
            self._closed = self._closing = True
            self._changed.notify()
        self._thread.join()
        self._natives.close()

    # From a request to a job.

    def _check_open(self) -> None:
        # What is closed has freed its memory: not even a tokenizer is left.
        if self._closing:
            raise CancelledTaskError("the engine is closing")

    def _enqueue(self, job: _Job) -> Generation:
        with self._changed:
            self._check_open()
            free = self.settings.parallel - len(self._active)
            if len(self._waiting) - free >= self.settings.queue_length:
                raise OverloadedError(
                    f"{self.settings.queue_length} generations are queued already; try again later"
                )
            self._waiting.append(job)
            self._changed.notify()
        return job.generation

    async def _on_thread(self, work: Callable[[], T]) -> T:
        """Have something done on the engine's thread, between two passes."""
        future: Future[T] = Future()

        def chore() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(work())
            except Exception as error:
                # Whatever fails is for whoever asked; generations go on.
                future.set_exception(error)

        with self._changed:
            self._check_open()
            self._chores.append(chore)
            self._changed.notify()
        return await asyncio.wrap_future(future)

    # The engine's thread.

    @cached_property
    def _embedder(self) -> Embedder:
        embedder = Embedder(self.model, threads=self.settings.threads)
        self._natives.callback(embedder.close)
        return embedder

    def _loop(self) -> None:
        reason: AirloomError = CancelledTaskError("the engine is closing")
        try:
            self._serve()
        except Exception as error:
            # A defect of ours must not leave anybody waiting.
            log.exception("the engine failed")
            reason = EngineFailedError(f"the engine failed: {type(error).__name__}: {error}")
        with self._changed:
            self._closing = True
            leaving = [*self._active, *self._waiting]
            self._active, self._waiting = [], deque()
            chores, self._chores = self._chores, deque()
        for job in leaving:
            self._end(job, reason)
        self._send()
        # What was asked of the thread is done even now: somebody waits for it.
        for chore in chores:
            chore()

    def _embed(self, tokens: list[int]) -> NDArray[np.float32]:
        return self._embedder.embed(tokens)

    def _serve(self) -> None:
        while True:
            with self._changed:
                while not (self._waiting or self._active or self._chores or self._closing):
                    self._changed.wait()
                if self._closing:
                    return
            if self._chores:
                self._tell_all()
                self._chores.popleft()()
            self._drop_unwanted()
            self._admit()
            if self._active:
                self._pass()
            self._send()
            if self._began_to_tell:
                self._began_to_tell = False
                self._give_head_start()
            self.statistics.waiting, self.statistics.running = (
                len(self._waiting),
                len(self._active),
            )

    def _give_head_start(self) -> None:
        """Let a first piece get out before the next token is decoded, unless others wait for theirs.

        The event loop and gRPC's threads share processors and Python's lock with this one: without,
        a first token comes a millisecond later on two processors.
        """
        with self._changed:
            if len(self._active) == 1 and not self._waiting:
                self._changed.wait(_HEAD_START_S)

    def _send(self) -> None:
        """Hand the events over, in one call for each event loop."""
        outbox, self._outbox = self._outbox, []
        while outbox:
            loop = outbox[0][0].loop
            mine = [event for event in outbox if event[0].loop is loop]
            outbox = [event for event in outbox if event[0].loop is not loop]
            # A loop that is closed has nobody waiting on it.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_deliver, mine)

    def _end(self, job: _Job, event: Completion | SequenceState | AirloomError) -> None:
        """Let a job leave; the caller has taken it off the lists."""
        sequence = job.sequence
        if sequence.grammar is not None:
            sequence.grammar.close()
        if sequence.slot.index >= 0:
            length = min(sequence.remembered, sequence.position)
            if length < sequence.position + sequence.position_shift:
                job.adapter_context.context.trim(sequence.slot.index, length)
            job.adapter_context.cache.release(sequence.slot, sequence.keys(length))
        outcome = type(event).__name__
        if isinstance(event, Completion):
            outcome = event.finish_reason
            if self._observer is not None:
                self._observer.completed(event)
        elif job.generation.stream:
            self._tell(job, time.monotonic())
        self.statistics.outcomes[outcome] += 1
        self._outbox.append((job.generation, event))

    def _drop_unwanted(self) -> None:
        now_s = time.monotonic()
        for jobs in (self._active, self._waiting):
            with self._changed:
                # Others may join meanwhile.
                present = list(jobs)
            for job in [job for job in present if job.interrupted(now_s)]:
                event: SequenceState | AirloomError
                if job.generation.cancelled:
                    event = CancelledTaskError("the generation was cancelled")
                elif job.late(now_s):
                    event = DeadlineExceededError(
                        "the deadline passed before the generation was done"
                    )
                elif jobs is self._active:
                    event = self._suspended(job)
                else:
                    # What waits is suspended once it has begun.
                    continue
                with self._changed:
                    jobs.remove(job)
                self._end(job, event)

    def _suspended(self, job: _Job) -> SequenceState | AirloomError:
        sequence, context = job.sequence, job.adapter_context.context
        if sequence.images:
            return InvalidTaskError("a generation that has read images cannot be handed over")
        return SequenceState(
            model_sha256=self.description.sha256,
            layout=context.layout,
            adapter_sha256={
                use.name: self.adapters.get(use.name).sha256 for use in sequence.adapters.uses
            },
            request=sequence.request,
            tokens=tuple(sequence.tokens),
            prompt_tokens=sequence.prompt_tokens,
            position=sequence.position,
            draws=sequence.draws,
            generated=tuple(sequence.generated),
            scores=tuple(sequence.scores),
            memory=context.export_state(sequence.slot.index),
        )

    def _admit(self) -> None:
        """Give waiting jobs the places that are free, first come, first served."""
        if not self._waiting:
            return
        while self._waiting and len(self._active) < self.settings.parallel:
            with self._changed:
                job = self._waiting.popleft()
                self._active.append(job)
            sequence = job.sequence
            adapter_context = job.adapter_context = self._contexts.context_for(sequence.adapters)
            context, cache = adapter_context.context, adapter_context.cache
            sequence.timing.started_s = sequence.timing.started_s or time.monotonic()
            if job.memory is not None:
                self._take_over(job, job.memory)
                continue
            keys = sequence.keys(len(sequence.tokens))
            place = cache.place(keys)
            reused, slot = place.reused, place.slot
            if place.source is not slot:
                context.forget(slot.index)
                context.copy(place.source.index, slot.index)
            if not context.trim(slot.index, reused):
                # Recurrent memories cannot be cut: all is read anew.
                context.forget(slot.index)
                reused = 0
            sequence.slot, sequence.position, sequence.cached_tokens = slot, reused, reused
            self.statistics.cached_tokens += reused
            cache.occupy(slot, keys, reused)
        # In the order of the slots: see `padding`.
        self._active.sort(key=lambda job: job.sequence.slot.number)

    def _take_over(self, job: _Job, memory: bytes) -> None:
        sequence = job.sequence
        context, cache = job.adapter_context.context, job.adapter_context.cache
        keys = sequence.keys(sequence.position)
        slot = cache.place(np.full(1, -1)).slot
        cache.occupy(slot, keys, len(keys))
        sequence.slot = slot
        context.forget(slot.index)
        if not context.import_state(slot.index, memory, sequence.position):
            sequence.position = 0
            with self._changed:
                self._active.remove(job)
            self._end(job, InvalidTaskError("the state's keys and values do not fit this engine"))

    def _pass(self) -> None:
        """One pass through the model for the sequences of one set of adapters."""
        group = self._next_group()
        if len(group) < len(self._active) or not all(job.sequence.decoding for job in group):
            # Somebody is passed over or held up: what there is to tell is not.
            self._tell_all()
        first = group[0]
        if first.adapter_context.use(first.sequence.set_in_use):
            self.statistics.adapter_switches += 1
            # What changing costs, about a pass of a small model, is to be worth it.
            self._turn_ends = self.statistics.passes + _TURN_PASSES
        # An image is read in passes of its own.
        jobs = [job for job in group if not self._read_image(job)]
        if not jobs:
            return
        started_s = time.monotonic()
        plan = self._plan(jobs)
        if not self._batch.size:
            return
        try:
            passes, generated = self._run(plan)
        except DecodeError as error:
            for job in jobs:
                self._remove(job, error)
            return
        self._learn(plan, passes, generated, time.monotonic() - started_s)

    def _plan(self, jobs: list[_Job]) -> _Plan:
        """Decide what the next pass does, and fill the batch with it."""
        adapter_context = jobs[0].adapter_context
        decoding = [job for job in jobs if job.sequence.decoding]
        drafting = (
            bool(decoding) and self._drafter is not None and self._drafting.pays(len(decoding))
        )
        plan = _Plan(adapter_context, jobs, len(decoding), drafting)
        plan.drafts = self._draft(decoding) if drafting else {}
        self._batch.clear()
        if plan.reading:
            plan.shares = self._share_prompts(jobs, plan.drafts)
        elif not drafting:
            plan.padding = self._padding(adapter_context, decoding)
        spare = deque(plan.padding.slots)
        # In the order of the slots, for what is next to one another is computed together.
        for job in jobs:
            self._add_idle(spare, before=job.sequence.slot.index)
            if self._add(job, plan.drafts, plan.shares):
                plan.taking.append(job)
        self._add_idle(spare, before=adapter_context.context.sequences)
        return plan

    def _run(self, plan: _Plan) -> tuple[int, int]:
        """Do the pass, and those after it that need no plan; return how many, and the tokens made."""
        logits = self._decode(plan)
        if plan.reading or plan.drafting or not self._steady(plan.jobs):
            return 1, self._take_tokens(plan.taking, plan.drafts, logits)
        return self._go_on(plan, logits)

    def _decode(self, plan: _Plan) -> NDArray[np.float32]:
        context = plan.adapter_context.context
        logits = context.decode(self._batch)
        for slot in plan.padding.slots:
            context.trim(slot.index, slot.valid)
        return logits

    def _learn(self, plan: _Plan, passes: int, generated: int, duration_s: float) -> None:
        """Count what was done, and remember how long it took."""
        if plan.reading:
            self._budget.observe(self._batch.size, duration_s)
        elif self._drafter is not None:
            self._drafting.observe(
                plan.decoding,
                other=plan.drafting,
                passes=passes,
                tokens=generated,
                seconds=duration_s,
            )
        if plan.padding.rows:
            self._widening.observe(
                plan.padding.rows,
                other=plan.padding.widened,
                passes=passes,
                tokens=generated,
                seconds=duration_s,
            )
        statistics = self.statistics
        statistics.passes += passes
        statistics.pass_seconds += duration_s
        statistics.passes_by_sequences[len(plan.taking)] += passes
        statistics.prompt_tokens += sum(plan.shares.values())
        statistics.generated_tokens += generated

    def _draft(self, decoding: list[_Job]) -> dict[Sequence, list[int]]:
        assert self._drafter is not None
        room = self._batch.capacity // len(decoding) - 1
        count = min(self.settings.draft_tokens, room)
        return self._drafter.draft([job.sequence for job in decoding], count) if count else {}

    def _share_prompts(
        self, jobs: list[_Job], drafts: Mapping[Sequence, list[int]]
    ) -> dict[Sequence, int]:
        """How many tokens of each prompt this pass reads."""
        reading = [job.sequence for job in jobs if not job.sequence.decoding]
        decoding = len(jobs) - len(reading)
        room = self._batch.capacity - decoding - sum(map(len, drafts.values()))
        budget = min(room, self._budget.tokens(decoding=decoding, reading=len(reading)))
        shares = share_out(budget, [sequence.readable for sequence in reading])
        return dict(zip(reading, shares, strict=True))

    def _add(
        self,
        job: _Job,
        drafts: Mapping[Sequence, list[int]],
        shares: Mapping[Sequence, int],
    ) -> bool:
        """Add a job's part to the batch; say whether its next token comes out of the pass."""
        sequence, batch = job.sequence, self._batch
        slot = sequence.slot.index
        position = sequence.position + sequence.position_shift
        if sequence.decoding:
            batch.add(sequence.tokens[-1], position, slot)
            for offset, token in enumerate(drafts.get(sequence, ()), 1):
                batch.add(token, position + offset, slot)
            return True
        share = shares[sequence]
        if not share:
            return False
        start, end = sequence.position, sequence.position + share
        whole = end == len(sequence.tokens)
        batch.extend(sequence.tokens[start:end], position, slot, output=whole)
        if not whole:
            sequence.position = end
            sequence.slot.valid = sequence.remembered
        return whole

    def _add_idle(self, spare: deque[Slot], *, before: int) -> None:
        """Add a token that nobody wants for each free slot up to a number."""
        while spare and spare[0].index < before:
            slot = spare.popleft()
            self._batch.extend([0], slot.valid, slot.index, output=False)

    def _padding(self, adapter_context: AdapterContext, decoding: list[_Job]) -> BatchPadding:
        if not adapter_context.context.can_cut:
            # What a free slot is given, it would have to keep.
            return BatchPadding()
        return padding_for(
            adapter_context.cache.slots,
            [job.sequence.slot.index for job in decoding],
            self._widening,
            longest=max(job.sequence.position for job in decoding),
            context_tokens=self.context_tokens,
        )

    def _next_group(self) -> list[_Job]:
        """The jobs of one adapter_context whose next tokens need the set of adapters whose turn it is."""
        jobs = self._active
        group = jobs[0].group
        if len(jobs) > 1:
            groups = {job.group for job in jobs}
            if len(groups) > 1:
                group = self._whose_turn(groups)
                jobs = [job for job in jobs if job.group == group]
        self._turn = group
        return list(jobs)

    def _whose_turn(self, groups: set[_Group]) -> _Group:
        """The group whose turn lasts, else the one that has waited longest."""
        passes = self.statistics.passes
        if self._turn in groups and passes < self._turn_ends:
            return self._turn
        group = min(groups, key=lambda each: self._served.get(each, -1))
        self._served[group] = passes
        return group

    def _remove(self, job: _Job, event: Completion | AirloomError) -> None:
        with self._changed:
            self._active.remove(job)
        self._end(job, event)

    def _read_image(self, job: _Job) -> bool:
        """Read the image whose turn it is; False where it is text's."""
        sequence = job.sequence
        span = sequence.next_image
        if span is None or self._vision is None:
            return False
        try:
            self._vision.decode(
                job.adapter_context.context,
                span,
                sequence.position + sequence.position_shift,
                sequence.slot.index,
            )
        except DecodeError as error:
            self._remove(job, error)
            return True
        sequence.position += span.length
        sequence.position_shift += span.positions - span.length
        sequence.slot.valid = sequence.remembered
        return True

    def _steady(self, jobs: list[_Job]) -> bool:
        """Whether these can be left to themselves until somebody comes or goes."""
        return len(jobs) == len(self._active) and all(job.sequence.steady for job in jobs)

    def _go_on(self, plan: _Plan, logits: NDArray[np.float32]) -> tuple[int, int]:
        """Take the tokens of a pass and of those after it; return how many passes and tokens."""
        jobs = plan.taking
        most_passes = _STEADY_PASSES
        if self._drafter is not None:
            most_passes = min(most_passes, self._drafting.passes_left(plan.decoding))
        if plan.padding.rows:
            most_passes = min(most_passes, self._widening.passes_left(plan.padding.rows))
        steps = decode_steadily(
            self._batch,
            [job.sequence for job in jobs],
            logits,
            decode=functools.partial(self._decode, plan),
            keep_logits=any(job.sequence.request.scores for job in jobs),
            most_passes=most_passes,
            interrupted=self._interruption(jobs),
        )
        passes = steps.passes
        chosen = [
            _Chosen(job, passes * index, tokens, len(job.sequence.tokens) + passes - 1)
            for index, (job, tokens) in enumerate(zip(jobs, steps.tokens, strict=True))
        ]
        self._settle(chosen, steps.logits)
        return passes, passes * len(jobs)

    def _interruption(self, jobs: list[_Job]) -> Callable[[], bool]:
        """Whether something else is to be done now than to go on with these."""
        streams = [job.told_s for job in jobs if job.generation.stream]
        ends_s = min(
            time.monotonic() + _STEADY_S,
            min(streams, default=math.inf) + self.settings.stream_interval_s,
        )
        full = len(jobs) >= self.settings.parallel
        # While all places are taken, those who wait are no reason; another one may have a deadline.
        waiting = len(self._waiting) if full else 0

        def interrupted() -> bool:
            now_s = time.monotonic()
            return (
                now_s >= ends_s
                or bool(self._chores)
                or self._closing
                or len(self._waiting) > waiting
                or any(job.interrupted(now_s) for job in jobs)
            )

        return interrupted

    def _take_tokens(
        self,
        jobs: list[_Job],
        drafts: Mapping[Sequence, list[int]],
        logits: NDArray[np.float32],
    ) -> int:
        """Choose each job's next tokens from its rows of logits; return how many there are."""
        greedy = True in [job.sequence.greedy for job in jobs]
        likeliest: list[int] = logits.argmax(axis=1).tolist() if greedy else []
        chosen: list[_Chosen] = []
        row = 0
        for job in jobs:
            sequence = job.sequence
            draft = drafts.get(sequence, [])
            try:
                tokens = self._choose(sequence, draft, row, likeliest, logits)
            except AirloomError as error:
                self._remove(job, error)
                tokens = []
            if tokens:
                chosen.append(_Chosen(job, row, tokens, len(sequence.tokens) + len(draft)))
            if tokens and draft:
                sequence.drafted_tokens += len(draft)
                sequence.accepted_tokens += len(tokens) - 1
                self.statistics.drafted_tokens += len(draft)
                self.statistics.accepted_tokens += len(tokens) - 1
            row += 1 + len(draft)
        self._settle(chosen, logits)
        return sum(len(choice.tokens) for choice in chosen)

    def _settle(self, chosen: list[_Chosen], logits: NDArray[np.float32]) -> None:
        """Give the sequences what was chosen for them."""
        scored = self._score(chosen, logits)
        now_s = time.monotonic()
        for choice, (tokens, scores) in zip(chosen, scored, strict=True):
            timing = choice.job.sequence.timing
            timing.first_token_s = timing.first_token_s or now_s
            self._grow(choice, tokens, scores, now_s)

    @staticmethod
    def _choose(
        sequence: Sequence,
        draft: list[int],
        row: int,
        likeliest: list[int],
        logits: NDArray[np.float32],
    ) -> list[int]:
        """The next token, and those after it for as long as the draft guessed them."""
        if not draft:
            return [likeliest[row] if sequence.greedy else sequence.draw(logits[row])]
        tokens: list[int] = []
        for guess in [*draft, None]:
            at = row + len(tokens)
            token = likeliest[at] if sequence.greedy else sequence.draw(logits[at])
            tokens.append(token)
            if token != guess or sequence.ends_with(token):
                break
        return tokens

    @staticmethod
    def _score(
        chosen: list[_Chosen], logits: NDArray[np.float32]
    ) -> list[tuple[list[Token], list[TokenScore]]]:
        """For each choice its tokens, and their scores where the request wants them."""
        rows: list[int] = []
        scored: list[int] = []
        for choice in chosen:
            if choice.job.sequence.request.scores:
                rows += range(choice.row, choice.row + len(choice.tokens))
                scored += choice.tokens
        if not rows:
            return [([Token(token) for token in choice.tokens], []) for choice in chosen]
        wanted = logits if len(rows) == len(logits) else logits[rows]
        scores, normalisers = score_tokens(wanted, np.asarray(scored))
        at = 0
        made: list[tuple[list[Token], list[TokenScore]]] = []
        for choice in chosen:
            request = choice.job.sequence.request
            if not request.scores:
                made.append(([Token(token) for token in choice.tokens], []))
                continue
            tokens: list[Token] = []
            mine = scores[at : at + len(choice.tokens)]
            for row, (token, score) in enumerate(zip(choice.tokens, mine, strict=True)):
                alternatives: tuple[Alternative, ...] = ()
                if request.top_logprobs:
                    alternatives = _likeliest(
                        logits[choice.row + row], request.top_logprobs, normalisers[at + row]
                    )
                tokens.append(Token(token, score.logprob, alternatives))
            made.append((tokens, mine))
            at += len(mine)
        return made

    def _grow(
        self, choice: _Chosen, tokens: list[Token], scores: list[TokenScore], now_s: float
    ) -> None:
        """Give a sequence its tokens, and let it leave where the last has come."""
        job = choice.job
        sequence = job.sequence
        reason = sequence.extend(tokens, scores)
        sequence.position = len(sequence.tokens) - 1
        if sequence.position < choice.in_memory:
            job.adapter_context.context.trim(
                sequence.slot.index, sequence.position + sequence.position_shift
            )
        sequence.slot.valid = min(sequence.remembered, len(sequence.slot.keys))
        if reason is not None:
            completion = sequence.complete(reason)
            if job.generation.stream:
                self._outbox.append((job.generation, sequence.take_last_delta()))
            self._remove(job, completion)
        elif job.generation.stream and now_s - job.told_s >= self.settings.stream_interval_s:
            self._tell(job, now_s)

    def _tell(self, job: _Job, now_s: float) -> None:
        """Tell a stream what there is of its text."""
        if (delta := job.sequence.take_delta()) is not None:
            self._began_to_tell |= job.told_s == -math.inf
            job.told_s = now_s
            self._outbox.append((job.generation, delta))

    def _tell_all(self) -> None:
        """Tell every stream what has been kept back, now."""
        now_s = time.monotonic()
        for job in self._active:
            if job.generation.stream:
                self._tell(job, now_s)
        self._send()


def _deliver(events: list[tuple[Generation, Event]]) -> None:
    for generation, event in events:
        generation.deliver(event)


def _likeliest(
    logits: NDArray[np.float32], count: int, normaliser: float
) -> tuple[Alternative, ...]:
    count = min(count, len(logits))
    tokens = np.argpartition(-logits, count - 1)[:count]
    tokens = tokens[np.argsort(-logits[tokens], kind="stable")]
    return tuple(Alternative(int(token), float(logits[token]) - normaliser) for token in tokens)
