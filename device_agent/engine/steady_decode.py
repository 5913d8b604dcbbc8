"""Passes in which nothing happens but the next token.

Most of a generation is made of them: no prompt is read, nobody comes or goes. What a pass costs
beside the model is then what this loop does; all that can wait is done after the last of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

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
    """Of each sequence, one for each pass; a sequence with a fault has none for the last."""
    logits: NDArray[np.float32]
    """(sequences x passes, vocabulary), all passes of a sequence one after the other: what the tokens
    were chosen from. Of the last pass only, unless they were to be kept."""
    passes: int
    faults: dict[int, Exception] = field(default_factory=dict)
    """What was raised for which sequence; nothing was decoded after that."""
    refused: Exception | None = None
    """Why there is no pass after the last: what was chosen is good, the memory has to be restored."""


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

    Ends with the pass after which a sequence may have ended, something else wants to be done, or
    something has failed.

    Args:
        batch: the last pass: one token of each sequence, and one of each idle slot.
        sequences: steady ones, in the batch's order.
        logits: what came out of that pass, (sequences, vocabulary).
        decode: runs the batch as it is then.
        keep_logits: whether those of all passes will be needed.
        most_passes: including the one that is over.
        interrupted: asked after each pass.
    """
    greedy = all(sequence.greedy for sequence in sequences)
    ends = frozenset[int]().union(*(sequence.ends for sequence in sequences))
    left = min(most_passes, *(sequence.room for sequence in sequences))
    if keep_logits:
        left = min(left, max(1, _KEPT_LOGITS // logits.size))
    places = np.flatnonzero(batch.outputs[: batch.size]).tolist()
    chosen: list[list[int]] = []
    kept: list[NDArray[np.float32]] = []
    faults: dict[int, Exception] = {}
    refused: Exception | None = None
    while True:
        tokens = logits.argmax(axis=1).tolist() if greedy else _draw(sequences, logits, faults)
        chosen.append(tokens)
        left -= 1
        if left <= 0 or faults or not ends.isdisjoint(tokens) or interrupted():
            break
        if keep_logits:
            kept.append(logits.copy())
        batch.advance(places, tokens)
        try:
            logits = decode()
        except Exception as error:
            refused = error
            break
    if kept:
        rows = kept if refused is not None else [*kept, logits]
        by_sequence = np.stack(rows, axis=1)
        logits = by_sequence.reshape(-1, by_sequence.shape[2])
    columns = [list(column) for column in zip(*chosen, strict=True)]
    for index in faults:
        columns[index].pop()
    return Steps(columns, logits, len(chosen), faults, refused)


def _draw(
    sequences: Sequence[Generated], logits: NDArray[np.float32], faults: dict[int, Exception]
) -> list[int]:
    """Draw each sequence's token; a sequence for which that fails gets none that counts."""
    tokens: list[int] = []
    for index, (sequence, row) in enumerate(zip(sequences, logits, strict=True)):
        try:
            tokens.append(sequence.draw(row))
        except Exception as error:
            faults[index] = error
            tokens.append(-1)
    return tokens
