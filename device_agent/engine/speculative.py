"""Drafting: a small model proposes the next tokens, the large one checks them in a single pass.

Exact by construction: a draft is only ever compared with the token that the large model chooses at
that place, from the same uniform numbers as without drafts. The same seed gives the same text with
and without (Leviathan et al. 2023, arXiv 2211.17192, with a deterministic proposal: a draft is
accepted with the probability that the large model gives it).
"""

from __future__ import annotations

from collections.abc import Sequence as Sequences

import numpy as np

from airloom.errors import ModelLoadError
from device_agent.engine.context import Batch, Context
from device_agent.engine.model import Model
from device_agent.engine.prefix_cache import common_prefix
from device_agent.engine.sequence import Sequence


class Drafter:
    """The small model's memory of every slot, and what it would say next.

    Raises:
        ModelLoadError: its vocabulary is not the large model's.
    """

    def __init__(
        self, draft: Model, target: Model, *, slots: int, context_tokens: int, threads: int
    ) -> None:
        if draft.vocabulary_size != target.vocabulary_size or any(
            draft.pieces[token] != target.pieces[token] for token in range(draft.vocabulary_size)
        ):
            raise ModelLoadError(
                f"{draft.path}: cannot draft for {target.path.name}: the vocabularies differ"
            )
        self._context = Context(
            draft,
            sequences=slots,
            context_tokens=context_tokens,
            threads=threads,
            outputs=slots,
        )
        self._batch = Batch(self._context.batch_tokens)
        self._known: list[list[int]] = [[] for _ in range(slots)]

    def close(self) -> None:
        """Free the draft's memory (not its model)."""
        self._context.close()

    def draft(self, sequences: Sequences[Sequence], count: int) -> dict[Sequence, list[int]]:
        """Propose up to `count` tokens for each sequence, greedily, all sequences together."""
        limit = self._context.context_tokens
        drafts: dict[Sequence, list[int]] = {
            s: [] for s in sequences if len(s.tokens) + count <= limit and s.draftable > 0
        }
        ahead = {s: self._missing(s) for s in drafts}
        while any(len(tokens) > 1 for tokens in ahead.values()):
            self._catch_up(ahead)
        going = list(drafts)
        for _ in range(count):
            going = [s for s in going if len(drafts[s]) < s.draftable]
            if not going:
                break
            self._batch.clear()
            for sequence in going:
                token = drafts[sequence][-1] if drafts[sequence] else sequence.tokens[-1]
                known = self._known[sequence.slot.number]
                self._batch.add(token, len(known), sequence.slot.number)
                known.append(token)
            chosen = self._context.decode(self._batch).argmax(axis=1).tolist()
            for sequence, token in zip(going, chosen, strict=True):
                drafts[sequence].append(token)
        return {sequence: tokens for sequence, tokens in drafts.items() if tokens}

    def _missing(self, sequence: Sequence) -> list[int]:
        """Forget what differs from the sequence; return what is yet to be read of it."""
        index = sequence.slot.number
        known = self._known[index]
        tokens = sequence.tokens
        same = common_prefix(np.asarray(known, np.int64), np.asarray(tokens[:-1], np.int64))
        if same < len(known):
            if not self._context.trim(index, same):
                self._context.forget(index)
                same = 0
            del known[same:]
        return tokens[same:]

    def _catch_up(self, ahead: dict[Sequence, list[int]]) -> None:
        self._batch.clear()
        for sequence, tokens in ahead.items():
            part = tokens[: min(len(tokens) - 1, self._batch.room)]
            if part:
                index = sequence.slot.number
                self._batch.extend(part, len(self._known[index]), index, output=False)
                self._known[index] += part
                del tokens[: len(part)]
        self._context.decode(self._batch)
