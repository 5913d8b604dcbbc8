"""One decode loop on its own thread, fed from a bounded queue.

Cancellation and deadlines take effect before the next token.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from device_agent.engine.confidence import (
    Confidence,
    TokenScore,
    sample_token,
    score_token,
    summarise,
)
from device_agent.engine.model import Model, ModelDescription
from protos.errors import (
    AirloomError,
    CancelledTaskError,
    DeadlineExceededError,
    InvalidTaskError,
    OverloadedError,
)


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """What to generate: greedily where `temperature` is 0, else sampled from `seed`."""

    prompt: str
    max_tokens: int = 128
    temperature: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    deadline_s: float | None = None
    """On time.monotonic()'s clock."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What was generated, how surely, and where the time went."""

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    prompt_tokens: int
    confidence: Confidence
    finished: bool
    """Whether the model ended by itself (False: `max_tokens` or the context ran out)."""
    queue_ms: float
    prefill_ms: float
    decode_ms: float


@dataclass
class _Job:
    request: GenerateRequest
    result: Future[Completion]
    enqueued_s: float
    cancelled: threading.Event = field(default_factory=threading.Event)
    on_text: Callable[[str], None] | None = None


class Engine:
    """Serve generations one after the other from a queue of at most `queue_length`."""

    def __init__(self, model: Model, *, queue_length: int = 64) -> None:
        self._model = model
        self._jobs: queue.Queue[_Job | None] = queue.Queue(queue_length)
        self._running: _Job | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="decode", daemon=True)
        self._thread.start()

    @property
    def description(self) -> ModelDescription:
        """The model this engine runs."""
        return self._model.description

    def chat_prompt(self, content: str) -> str:
        """Write a user's message as the model's chat template wants it."""
        return self._model.chat_prompt(content)

    def close(self) -> None:
        """Stop after the current token, answer what is queued with CancelledTaskError, free all."""
        self._closing.set()
        # Wakes an idle loop; a loop with work to do sees the event itself.
        with contextlib.suppress(queue.Full):
            self._jobs.put_nowait(None)
        self._thread.join()
        self._model.close()

    async def generate(
        self, request: GenerateRequest, on_text: Callable[[str], None] | None = None
    ) -> Completion:
        """Generate one completion; cancelling the coroutine stops the decode loop.

        Args:
            request: what to generate.
            on_text: called on the event loop with each piece of text as it is decoded.

        Raises:
            OverloadedError: the queue is full.
            DeadlineExceededError: the deadline passed while queued or while decoding.
            InvalidTaskError: the prompt does not fit the context.
        """
        loop = asyncio.get_running_loop()

        def relay(text: str) -> None:
            if on_text is not None:
                loop.call_soon_threadsafe(on_text, text)

        job = _Job(request, Future(), time.monotonic(), on_text=relay if on_text else None)
        if self._closing.is_set():
            raise CancelledTaskError("the engine is closing")
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            raise OverloadedError(
                f"{self._jobs.maxsize} generations are queued already; try again later"
            ) from None
        try:
            return await asyncio.wrap_future(job.result)
        finally:
            job.cancelled.set()

    def _loop(self) -> None:
        while (job := self._jobs.get()) is not None and not self._closing.is_set():
            self._finish(job)
        while True:
            if job is not None:
                self._fail(job, CancelledTaskError("the engine is closing"))
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return

    def _finish(self, job: _Job) -> None:
        # `set_running_or_notify_cancel` is False where the caller has gone already.
        if not job.result.set_running_or_notify_cancel():
            return
        try:
            job.result.set_result(self._generate(job))
        except AirloomError as error:
            job.result.set_exception(error)

    @staticmethod
    def _fail(job: _Job, error: AirloomError) -> None:
        if job.result.set_running_or_notify_cancel():
            job.result.set_exception(error)

    def _check(self, job: _Job) -> None:
        if job.cancelled.is_set() or self._closing.is_set():
            raise CancelledTaskError("the generation was cancelled")
        deadline_s = job.request.deadline_s
        if deadline_s is not None and time.monotonic() >= deadline_s:
            raise DeadlineExceededError("the deadline passed before the generation was done")

    def _generate(self, job: _Job) -> Completion:
        request, model = job.request, self._model
        self._check(job)
        started_s = time.monotonic()
        prompt = model.tokenize(request.prompt)
        if len(prompt) >= model.context_tokens:
            raise InvalidTaskError(
                f"the prompt has {len(prompt)} tokens, the model's context only "
                f"{model.context_tokens}"
            )
        model.restart()
        logits = model.decode(prompt)
        prefilled_s = time.monotonic()
        rng = np.random.default_rng(request.seed)
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        tokens: list[int] = []
        scores: list[TokenScore] = []
        text, finished = "", False
        room = min(request.max_tokens, model.context_tokens - len(prompt))
        while len(tokens) < room:
            self._check(job)
            if request.temperature > 0:
                token = sample_token(logits, request.temperature, rng)
            else:
                token = int(logits.argmax())
            scores.append(score_token(logits, token))
            tokens.append(token)
            if model.is_end(token):
                finished = True
                break
            fresh = decoder.decode(model.piece(token))
            text += fresh
            if job.on_text is not None and fresh:
                job.on_text(fresh)
            if any(mark in text for mark in request.stop):
                text = text[: min(text.find(mark) for mark in request.stop if mark in text)]
                finished = True
                break
            if len(tokens) < room:
                logits = model.decode([token])
        text += decoder.decode(b"", final=True) if not finished else ""
        done_s = time.monotonic()
        return Completion(
            text=text,
            tokens=tuple(tokens),
            logprobs=tuple(score.logprob for score in scores),
            prompt_tokens=len(prompt),
            confidence=summarise(scores),
            finished=finished,
            queue_ms=(started_s - job.enqueued_s) * 1e3,
            prefill_ms=(prefilled_s - started_s) * 1e3,
            decode_ms=(done_s - prefilled_s) * 1e3,
        )
