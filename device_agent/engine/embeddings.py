"""Texts as vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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


class Embedder:
    """Embeds one text at a time, pooled as the model's file says; else the mean over its tokens.

    A model whose tokens see those after them (BERT and its kin) reads a text in a single pass.

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
            context_tokens=self._longest,
            batch_tokens=self._longest if self._whole else PASS_TOKENS,
            threads=threads,
            embeddings="pooled" if self._whole else "tokens",
        )
        self._batch = Batch(self._context.batch_tokens)

    def close(self) -> None:
        """Free the context."""
        self._context.close()

    def embed(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Return a vector (width,) of length 1.

        Raises:
            InvalidTaskError: the text has no tokens, or too many.
        """
        if not 0 < len(tokens) <= self._longest:
            raise InvalidTaskError(
                f"a text of {len(tokens)} tokens cannot be embedded; 1 to {self._longest} can"
            )
        self._context.forget(0)
        vector = self._embed_whole(tokens) if self._whole else self._embed_in_passes(tokens)
        length = float(np.linalg.norm(vector))
        if not np.isfinite(length):
            raise UnsupportedByModelError("the model gives no numbers for this text")
        return vector / np.float32(length) if length else vector

    def _embed_whole(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        self._read(tokens, 0)
        return self._context.embedding(0, self._width)

    def _embed_in_passes(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        total: NDArray[Any] = np.zeros(self._width, np.float64)
        rows = np.empty((0, self._width), np.float32)
        for start in range(0, len(tokens), PASS_TOKENS):
            self._read(tokens[start : start + PASS_TOKENS], start)
            rows = self._context.token_embeddings(self._batch.size, self._width)
            if self._pooling == llama_cpp.LLAMA_POOLING_TYPE_CLS:
                break
            total += rows.sum(axis=0, dtype=np.float64)
        if self._pooling == llama_cpp.LLAMA_POOLING_TYPE_CLS:
            total = rows[0]
        elif self._pooling == llama_cpp.LLAMA_POOLING_TYPE_LAST:
            total = rows[-1]
        # Its length is made 1 in the end: the sum will do for the mean.
        vector: NDArray[np.float32] = total.astype(np.float32)
        return vector

    def _read(self, tokens: Sequence[int], position: int) -> None:
        self._batch.clear()
        self._batch.extend(tokens, position, 0, output=False)
        self._batch.outputs[: len(tokens)] = 1
        self._context.decode(self._batch)
