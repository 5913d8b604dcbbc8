"""Which sequence of the context remembers what, so that a common beginning is computed once."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.int64]
"""One number for each position: equal numbers at equal places mean equal keys and values."""

_WORTH_COPYING = 32
"""Fewer tokens than this are computed sooner than a sequence's memory is copied."""


def position_keys(tokens: list[int], adapters: int, adapters_from: int) -> Keys:
    """Keys for tokens, of which those from `adapters_from` on were read with a set of adapters."""
    keys = np.asarray(tokens, np.int64) & 0xFFFFFFFF
    keys[adapters_from:] |= adapters << 32
    return keys


def common_prefix(a: Keys, b: Keys) -> int:
    """How many leading entries are equal."""
    size = min(len(a), len(b))
    different = np.flatnonzero(a[:size] != b[:size])
    return int(different[0]) if len(different) else size


@dataclass
class Slot:
    """One sequence of the context."""

    index: int
    keys: Keys = field(default_factory=lambda: np.empty(0, np.int64))
    valid: int = 0
    """How many of the keys are in the context's memory."""
    busy: bool = False
    used: int = 0
    """When it was last freed, counted in releases."""
    number: int = -1
    """Among the slots of all contexts of an engine."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a prompt goes, and from which slot its first `reused` positions come."""

    slot: Slot
    source: Slot
    reused: int


class PrefixCache:
    """The slots of one context."""

    def __init__(self, slots: int, first_number: int = 0) -> None:
        self.slots = [Slot(index, number=first_number + index) for index in range(slots)]
        self._releases = 0

    def place(self, keys: Keys) -> Placement:
        """Choose a free slot for a prompt, and the slot that remembers most of its beginning.

        At most all but one position is reused: the last one's logits are needed.
        """
        free = [slot for slot in self.slots if not slot.busy]
        oldest = min(free, key=lambda slot: (slot.valid > 0, slot.used))
        prompt = keys[: len(keys) - 1]
        shared = [common_prefix(slot.keys[: slot.valid], prompt) for slot in self.slots]
        # Among equals a free slot, for it needs no copy.
        best = max(self.slots, key=lambda slot: (shared[slot.index], not slot.busy))
        reused = shared[best.index]
        if reused == 0:
            return Placement(oldest, oldest, 0)
        # Taking a slot over loses what it remembers beyond the common part.
        keeps_most = 2 * reused >= best.valid
        if not best.busy and (keeps_most or reused < _WORTH_COPYING or len(free) == 1):
            return Placement(best, best, reused)
        if reused < _WORTH_COPYING:
            own = shared[oldest.index]
            return Placement(oldest, oldest, own)
        target = min(
            (slot for slot in free if slot is not best),
            key=lambda slot: (slot.valid > 0, slot.used),
        )
        return Placement(target, best, reused)

    def occupy(self, slot: Slot, keys: Keys, valid: int) -> None:
        """Note that a prompt is being read into a slot that holds its first `valid` positions."""
        slot.keys, slot.valid, slot.busy = keys, valid, True

    def release(self, slot: Slot, keys: Keys) -> None:
        """Note what a slot remembers from now on."""
        self._releases += 1
        slot.keys, slot.valid, slot.busy, slot.used = keys, len(keys), False, self._releases

    def forget(self, slot: Slot) -> None:
        """Note that a slot remembers nothing."""
        self.release(slot, np.empty(0, np.int64))
