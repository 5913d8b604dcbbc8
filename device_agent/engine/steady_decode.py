"""Passes in which nothing happens but the next token.

Most of a generation is made of them: no prompt is read, nobody comes or goes. What a pass costs
beside the model is then what this loop does; all that can wait is done after the last of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from device_agent.engine.context import Batch
from device_agent.engine.sequence import Sequence as Generated

_KEPT_LOGITS = 1 << 16
"""Logits of passes that are over, kept to be scored together: few enough for a small processor's cache."""


@dataclass(frozen=True, slots=True)
class Steps:
    """What some passes chose."""

    tokens: list[list[int]]
    """Of each sequence, one for each pass."""
    logits: NDArray[np.float32]
    """(sequences x passes, vocabulary), all passes of a sequence one after the other: what the tokens
    were chosen from. Of the last pass only, unless they were to be kept."""

    @property
    def passes(self) -> int:
        return len(self.tokens[0])


def decode_steadily(
    batch: Batch,
    sequences: Sequence[Generated],
    logits: NDArray[np.float32],
    *,
    decode: Callable[[], NDArray[np.float32]],
    keep_logits: bool,
    most_passes: int,
    interrupted: Callable[[], bool],
) -> Steps:
    """Choose each sequence's next token, and pass by pass those after it.

    Ends with the pass after which a sequence may have ended, or something else wants to be done.

    Args:
        batch: the last pass: one token of each sequence, and one of each idle slot.
        sequences: steady ones, in the batch's order.
        logits: what came out of that pass, (sequences, vocabulary).
        decode: runs the batch as it is then.
        keep_logits: whether those of all passes will be needed.
        most_passes: including the one that is over.
        interrupted: asked after each pass.

    Raises:
        DecodeError: a pass was refused.
    """
    greedy = all(sequence.greedy for sequence in sequences)
    ends = frozenset[int]().union(*(sequence.ends for sequence in sequences))
    left = min(most_passes, *(sequence.room for sequence in sequences))
    if keep_logits:
        left = min(left, max(1, _KEPT_LOGITS // logits.size))
    places = np.flatnonzero(batch.outputs[: batch.size]).tolist()
    chosen: list[list[int]] = []
    kept: list[NDArray[np.float32]] = []
    while True:
        if greedy:
            tokens = logits.argmax(axis=1).tolist()
        else:
            tokens = [s.draw(row) for s, row in zip(sequences, logits, strict=True)]
        chosen.append(tokens)
        left -= 1
        if left <= 0 or not ends.isdisjoint(tokens) or interrupted():
            break
        if keep_logits:
            kept.append(logits.copy())
        batch.advance(places, tokens)
        logits = decode()
    if kept:
        by_sequence = np.stack([*kept, logits], axis=1)
        logits = by_sequence.reshape(-1, by_sequence.shape[2])
    return Steps([list(column) for column in zip(*chosen, strict=True)], logits)
