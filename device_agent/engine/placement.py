"""Jobs into the slots of a context and out again, and what a slot remembers of them."""

from __future__ import annotations

import numpy as np

from airloom.errors import InvalidTaskError
from device_agent.engine.job import Job
from device_agent.engine.prefix_cache import Slot

_NOTHING_IN_COMMON = np.full(1, -1)


def place(job: Job) -> None:
    """Give a job a slot of its context, with what is remembered of its prompt's beginning.

    Raises:
        InvalidTaskError: its keys and values, from another engine, do not fit.
    """
    if job.memory is not None:
        _take_over(job, job.memory)
        return
    sequence, context, cache = job.sequence, job.context.context, job.context.cache
    keys = sequence.keys(len(sequence.tokens))
    chosen = cache.place(keys)
    slot, reused = chosen.slot, chosen.reused
    # From here on the slot is the job's: whatever fails, it comes back, and holds nothing meanwhile.
    cache.occupy(slot, keys, 0)
    sequence.slot, sequence.position = slot, 0
    if chosen.source is not slot:
        context.forget(slot.index)
        context.copy(chosen.source.index, slot.index)
    if not context.trim(slot.index, reused):
        # Recurrent memories cannot be cut: all is read anew.
        context.forget(slot.index)
        reused = 0
    slot.valid = sequence.position = sequence.cached_tokens = reused


def _take_over(job: Job, memory: bytes) -> None:
    sequence, context, cache = job.sequence, job.context.context, job.context.cache
    slot = cache.place(_NOTHING_IN_COMMON).slot
    position, sequence.position = sequence.position, 0
    keys = sequence.keys(position)
    cache.occupy(slot, keys, 0)
    sequence.slot = slot
    context.forget(slot.index)
    if not context.import_state(slot.index, memory, position):
        raise InvalidTaskError("the state's keys and values do not fit this engine")
    slot.valid = sequence.position = position
    job.memory = None


def release(job: Job) -> None:
    """Free a job's slot, which remembers what was read into it, and nothing that was not."""
    sequence, context = job.sequence, job.context.context
    slot, sequence.slot = sequence.slot, Slot(-1)
    if slot.index < 0:
        return
    length = min(sequence.remembered, sequence.position)
    try:
        if not context.trim(slot.index, length):
            context.forget(slot.index)
            length = 0
        job.context.cache.release(slot, sequence.keys(length))
    except BaseException:
        context.forget(slot.index)
        job.context.cache.forget(slot)
        raise
