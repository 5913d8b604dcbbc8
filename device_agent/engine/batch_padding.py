"""Free slots that a pass takes along: a row that nobody wants can cost less than its absence."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from device_agent.engine.context import cells
from device_agent.engine.prefix_cache import Slot
from device_agent.engine.trial import Trial

_WIDEST_BRIDGE = 2
"""Free slots between two that decode which are taken along rather than have the pass split."""

_ROWS_TOGETHER = 4
"""Matrix kernels for repacked weights take so many rows at a time, and what is left one by one: seven
can take longer than eight."""


@dataclass(frozen=True, slots=True)
class BatchPadding:
    """What a pass takes along."""

    slots: tuple[Slot, ...] = ()
    """In the order of their numbers."""
    rows: int = 0
    """Before the pass was, or could have been, widened; 0 where it could not."""
    widened: bool = False


def padding_for(
    slots: Sequence[Slot],
    decoding: Sequence[int],
    widening: Trial,
    *,
    longest: int,
    context_tokens: int,
) -> BatchPadding:
    """Choose what a pass for these slots takes along.

    Args:
        slots: those of the context.
        decoding: numbers of those that decode, ascending; at least one.
        widening: whether rounding up the number of rows has paid.
        longest: how much the one with most to remember has to.
        context_tokens: how much a slot can remember.
    """
    bridges = _bridges(slots, decoding, context_tokens)
    rows = len(decoding) + len(bridges)
    if rows == 1:
        return BatchPadding()
    # Attention costs every row what the longest takes.
    light = [not slot.busy and slot.valid < cells(longest) for slot in slots]
    neighbours = _neighbours(slots, decoding, light, -rows % _ROWS_TOGETHER)
    if not neighbours:
        return BatchPadding(tuple(bridges))
    widened = widening.pays(rows)
    chosen = [*bridges, *neighbours] if widened else bridges
    return BatchPadding(tuple(sorted(chosen, key=lambda slot: slot.index)), rows, widened)


def _bridges(slots: Sequence[Slot], decoding: Sequence[int], context_tokens: int) -> list[Slot]:
    """Free slots between those that decode.

    llama.cpp computes sequences together only where their numbers follow one another: a gap splits
    the pass, and every part reads all weights again.
    """
    bridges: list[Slot] = []
    for before, after in itertools.pairwise(decoding):
        gap = slots[before + 1 : after]
        if (
            0 < len(gap) <= _WIDEST_BRIDGE
            and not any(slot.busy for slot in gap)
            and all(slot.valid < context_tokens for slot in gap)
        ):
            bridges += gap
    return bridges


def _neighbours(
    slots: Sequence[Slot], decoding: Sequence[int], light: Sequence[bool], count: int
) -> list[Slot]:
    """So many light slots next to those that decode, or none at all."""
    above = slots[decoding[-1] + 1 :]
    below = slots[: decoding[0]][::-1]
    found: list[Slot] = []
    for side in (above, below):
        found += itertools.takewhile(lambda slot: light[slot.index], side)
    return found[:count] if count and len(found) >= count else []
