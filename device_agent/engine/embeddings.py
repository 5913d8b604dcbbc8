"""Texts as vectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from airloom.errors import InvalidTaskError
from device_agent.engine.context import Batch, Context
from device_agent.engine.model import Model

LONGEST_TEXT = 2048
"""Tokens; fewer where the model was trained with fewer."""


class Embedder:
    """Embeds one text at a time, pooled as the model's file says; else the mean over its tokens.

    llama.cpp pools within a single pass, so a text must fit in one.
    """

    def __init__(self, model: Model, *, threads: int) -> None:
        tokens = min(LONGEST_TEXT, model.trained_context_tokens)
        self._width = model.embedding_width
        self._context = Context(
            model, context_tokens=tokens, batch_tokens=tokens, threads=threads, embeddings=True
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
        if not 0 < len(tokens) <= self._batch.capacity:
            raise InvalidTaskError(
                f"a text of {len(tokens)} tokens cannot be embedded; 1 to {self._batch.capacity} can"
            )
        self._context.forget(0)
        self._batch.clear()
        self._batch.extend(tokens, 0, 0, output=False)
        self._batch.outputs[: len(tokens)] = 1
        self._context.decode(self._batch)
        vector = self._context.embedding(0, self._width)
        length = float(np.linalg.norm(vector))
        return vector / np.float32(length) if length else vector
