"""Texts as vectors."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from airloom.errors import InvalidTaskError, UnsupportedByModelError
from device_agent.engine.context import Batch, Context
from device_agent.engine.model import Model

LONGEST_TEXT = 2048
"""Tokens; fewer where the model was trained with fewer."""
PASS_TOKENS = 64
"""Read in one pass where each token sees only those before it. llama.cpp keeps logits for each token
whose embedding it gives: for 2,048 tokens of a vocabulary of 152,000 that would be 2.4 GB."""
SEQUENCES = 2
"""Texts that are read at once: a long one, and a short one between its passes."""


Vector = NDArray[np.float32]


@dataclass(eq=False)
class _Text:
    """A text that is being read, and what its tokens add up to so far."""

    tokens: Sequence[int]
    sequence: int
    embedded: Future[Vector]
    total: NDArray[np.float64]
    position: int = 0


class Embedder:
    """Embeds texts pass by pass, pooled as the model's file says; else the mean over their tokens.

    Two texts can be read at once: a long one, and between its passes one of a single pass. A model
    whose tokens see those after them (BERT and its kin) reads any text in a single pass.

    Raises:
        UnsupportedByModelError: the model ranks texts instead.
    """

    def __init__(self, model: Model, *, threads: int) -> None:
        self._longest = min(LONGEST_TEXT, model.trained_context_tokens)
        self._width = model.embedding_width
        self._pooling = model.pooling_type
        if self._pooling == llama_cpp.LLAMA_POOLING_TYPE_RANK:
            raise UnsupportedByModelError(f"{model.path.name} ranks texts, and embeds none")
        self._whole = not model.causal
        self._context = Context(
            model,
            sequences=1 if self._whole else SEQUENCES,
            context_tokens=self._longest,
            batch_tokens=self._longest if self._whole else PASS_TOKENS,
            threads=threads,
            embeddings="pooled" if self._whole else "tokens",
        )
        self._batch = Batch(self._context.batch_tokens)

    def close(self) -> None:
        """Free the context."""
        self._context.close()

    def begin(self, tokens: Sequence[int], embedded: Future[Vector]) -> _Text:
        """Make ready to read a text.

        Raises:
            InvalidTaskError: the text has no tokens, or too many.
        """
        if not 0 < len(tokens) <= self._longest:
            raise InvalidTaskError(
                f"a text of {len(tokens)} tokens cannot be embedded; 1 to {self._longest} can"
            )
        sequence = 0 if self._whole or len(tokens) > PASS_TOKENS else 1
        return _Text(tokens, sequence, embedded, np.zeros(self._width, np.float64))

    def advance(self, text: _Text) -> Vector | None:
        """Do one pass; return a vector (width,) of length 1 where it was the last."""
        if text.position == 0:
            self._context.forget(text.sequence)
        if self._whole:
            self._read(text, text.tokens)
            return _normalised(self._context.embedding(text.sequence, self._width))
        self._read(text, text.tokens[text.position : text.position + PASS_TOKENS])
        rows = self._context.token_embeddings(self._batch.size, self._width)
        if self._pooling == llama_cpp.LLAMA_POOLING_TYPE_CLS:
            return _normalised(rows[0])
        if self._pooling == llama_cpp.LLAMA_POOLING_TYPE_LAST:
            text.total = rows[-1].astype(np.float64)
        else:
            # Its length is made 1 in the end: the sum will do for the mean.
            text.total += rows.sum(axis=0, dtype=np.float64)
        if text.position < len(text.tokens):
            return None
        return _normalised(text.total.astype(np.float32))

    def _read(self, text: _Text, tokens: Sequence[int]) -> None:
        self._batch.clear()
        self._batch.extend(tokens, text.position, text.sequence, output=False)
        self._batch.outputs[: len(tokens)] = 1
        self._context.decode(self._batch)
        text.position += len(tokens)


class EmbeddingQueue:
    """Texts that wait to be embedded: first come, first served, short ones between a long one's passes."""

    def __init__(self, embedder: Callable[[], Embedder]) -> None:
        """`embedder` is asked on the thread that takes the turns."""
        self._embedder = embedder
        self._lock = threading.Lock()
        self._short: deque[tuple[Sequence[int], Future[Vector]]] = deque()
        self._long: deque[tuple[Sequence[int], Future[Vector]]] = deque()
        self._reading: _Text | None = None
        self._long_is_next = False
        self._turning = False
        """Whether somebody takes turns until nothing is left."""

    def add(self, tokens: Sequence[int]) -> tuple[Future[Vector], bool]:
        """Add a text, from any thread; also say whether turns are to begin."""
        embedded: Future[Vector] = Future()
        with self._lock:
            begin, self._turning = not self._turning, True
            (self._short if len(tokens) <= PASS_TOKENS else self._long).append((tokens, embedded))
        return embedded, begin

    def take_turn(self) -> bool:
        """Do one pass; say whether anything is left. Whatever it raises is for whoever asked."""
        text = self._next()
        if text is not None:
            try:
                vector = self._embedder().advance(text)
            except Exception as error:
                self._settle(text, error)
            else:
                if vector is not None:
                    self._settle(text, vector)
        with self._lock:
            self._turning = bool(self._short or self._long or self._reading)
            return self._turning

    def _next(self) -> _Text | None:
        """The text whose turn it is; None where whoever asked for it has left."""
        with self._lock:
            long_waits = self._reading is not None or bool(self._long)
            take_long = long_waits and (self._long_is_next or not self._short)
            self._long_is_next = not take_long
            if take_long and self._reading is not None:
                if not self._reading.embedded.cancelled():
                    return self._reading
                self._reading = None
                return None
            tokens, embedded = (self._long if take_long else self._short).popleft()
        if embedded.cancelled():
            return None
        try:
            text = self._embedder().begin(tokens, embedded)
        except Exception as error:
            _tell(embedded, error)
            return None
        if take_long:
            self._reading = text
        return text

    def _settle(self, text: _Text, outcome: Vector | Exception) -> None:
        if text is self._reading:
            self._reading = None
        _tell(text.embedded, outcome)


def _tell(embedded: Future[Vector], outcome: Vector | Exception) -> None:
    """Give whoever asked what came of it, unless it has left."""
    if not embedded.set_running_or_notify_cancel():
        return
    if isinstance(outcome, Exception):
        embedded.set_exception(outcome)
    else:
        embedded.set_result(outcome)


def _normalised(vector: Vector) -> Vector:
    length = float(np.linalg.norm(vector))
    if not np.isfinite(length):
        raise UnsupportedByModelError("the model gives no numbers for this text")
    return vector / np.float32(length) if length else vector
