"""The contexts of one engine: to change adapters in one costs, to go from one to another does not.

llama.cpp plans its graphs anew whenever a context's adapters change, which takes as long as a pass of a
small model. With a context for each set of adapters none ever change; each takes memory of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from airloom.errors import ModelLoadError
from device_agent.engine.adapters import BASE, AdapterSet
from device_agent.engine.context import Context
from device_agent.engine.prefix_cache import PrefixCache

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Lane:
    """One context, what its sequences remember, and the adapters that are applied in it."""

    context: Context
    cache: PrefixCache
    number: int = 0
    in_use: AdapterSet = BASE
    used: int = 0
    """When it was last asked for, counted in requests."""

    def use(self, adapters: AdapterSet) -> bool:
        """Apply a set of adapters; False where it was applied already."""
        if self.in_use.key == adapters.key:
            return False
        self.context.use_adapters(adapters.natives)
        self.in_use = adapters
        return True


class Lanes:
    """The first lane serves the bare model, and every set of adapters that has no lane of its own."""

    def __init__(self, make: Callable[[], Context], *, most: int, slots: int) -> None:
        self._make = make
        self._most = most
        self._slots = slots
        self.first = Lane(make(), PrefixCache(slots))
        self._own: list[Lane] = []
        self._requests = 0

    def close(self) -> None:
        """Free all contexts."""
        for lane in (self.first, *self._own):
            lane.context.close()

    def lane_for(self, adapters: AdapterSet) -> Lane:
        """Where a request with these adapters goes: a lane of theirs, if one is to be had."""
        if adapters.key == BASE.key or adapters.invocation:
            # An activated LoRA reads its prompt's beginning as the bare model.
            return self.first
        self._requests += 1
        lane = next((one for one in self._own if one.in_use.key == adapters.key), None)
        lane = lane or self._another() or self._idle()
        if lane is None:
            return self.first
        lane.used = self._requests
        lane.use(adapters)
        return lane

    def _another(self) -> Lane | None:
        number = 1 + len(self._own)
        if number >= self._most:
            return None
        try:
            context = self._make()
        except ModelLoadError:
            log.exception("no context for another set of adapters: they share the first")
            self._most = number
            return None
        lane = Lane(context, PrefixCache(self._slots, number * self._slots), number)
        self._own.append(lane)
        return lane

    def _idle(self) -> Lane | None:
        """The lane that has been without work longest, emptied."""
        idle = [one for one in self._own if not any(slot.busy for slot in one.cache.slots)]
        if not idle:
            return None
        lane = min(idle, key=lambda one: one.used)
        for slot in lane.cache.slots:
            lane.context.forget(slot.index)
            lane.cache.forget(slot)
        return lane
