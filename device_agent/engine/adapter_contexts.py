"""The contexts of one engine: to change adapters in one costs, to go from one to another does not.

llama.cpp plans its graphs anew whenever a context's adapters change, which takes as long as a pass of a
small model. With a context for each set of adapters none ever change; each takes memory of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from airloom.errors import ModelLoadError
from device_agent.engine.adapters import BASE, UNKNOWN, AdapterSet
from device_agent.engine.context import Context
from device_agent.engine.prefix_cache import PrefixCache

log = logging.getLogger(__name__)


@dataclass(eq=False)
class AdapterContext:
    """One context, what its sequences remember, and the adapters that are applied in it."""

    context: Context
    cache: PrefixCache
    number: int = 0
    in_use: AdapterSet = BASE
    used: int = 0
    """When it was last asked for, counted in requests."""

    def use(self, adapters: AdapterSet) -> bool:
        """Apply a set of adapters; False where it was applied already.

        Raises:
            DecodeError: llama.cpp cannot apply it.
        """
        if self.in_use.key == adapters.key:
            return False
        # If this fails, nobody knows what is applied: the next set is applied in any case.
        self.in_use = UNKNOWN
        self.context.use_adapters(adapters.natives)
        self.in_use = adapters
        return True


class AdapterContexts:
    """The first serves the bare model, and every set of adapters that has no context of its own.

    At most `most` contexts are made. When all are taken, the set of adapters that was asked for
    longest ago gives up its context, if no generation uses it.
    """

    def __init__(self, make: Callable[[], Context], *, most: int, slots: int) -> None:
        self._make = make
        self._most = most
        self._slots = slots
        self.first = AdapterContext(make(), PrefixCache(slots))
        self._own: list[AdapterContext] = []
        self._requests = 0

    def close(self) -> None:
        """Free all contexts."""
        for one in (self.first, *self._own):
            one.context.close()

    def context_for(self, adapters: AdapterSet) -> AdapterContext:
        """Where a request with these adapters goes: a context of theirs, if one is to be had."""
        if adapters.key == BASE.key or adapters.invocation:
            # An activated LoRA reads its prompt's beginning as the bare model.
            return self.first
        self._requests += 1
        chosen = next((one for one in self._own if one.in_use.key == adapters.key), None)
        chosen = chosen or self._another() or self._idle()
        if chosen is None:
            return self.first
        chosen.used = self._requests
        chosen.use(adapters)
        return chosen

    def _another(self) -> AdapterContext | None:
        number = 1 + len(self._own)
        if number >= self._most:
            return None
        try:
            context = self._make()
        except ModelLoadError:
            log.exception("no context for another set of adapters: they share the first")
            self._most = number
            return None
        made = AdapterContext(context, PrefixCache(self._slots, number * self._slots), number)
        self._own.append(made)
        return made

    def _idle(self) -> AdapterContext | None:
        """The context that has been without work longest, emptied."""
        idle = [one for one in self._own if not any(slot.busy for slot in one.cache.slots)]
        if not idle:
            return None
        oldest = min(idle, key=lambda one: one.used)
        for slot in oldest.cache.slots:
            oldest.context.forget(slot.index)
            oldest.cache.forget(slot)
        return oldest
