"""Results that are kept for a while, within bounds for each caller and for all together."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

_OVERHEAD_BYTES = 512
"""Of one entry, besides its result and key."""


@dataclass(frozen=True, slots=True)
class KeepLimits:
    """How much is kept, and for how long."""

    age_s: float = 600.0
    results_per_caller: int = 256
    bytes_per_caller: int = 4 << 20
    results: int = 4096
    bytes: int = 64 << 20


@dataclass(frozen=True, slots=True)
class KeptResult:
    """The result of a run that ended, serialised."""

    run_id: str
    digest: bytes
    result: bytes
    ended_s: float


class KeptResults:
    """Results by caller and key; the oldest go first.

    A caller that keeps too much pushes out its own results. When all together are too much, the
    oldest result of whoever keeps most is dropped: nobody can push out the others'.
    """

    def __init__(self, limits: KeepLimits, clock: Callable[[], float]) -> None:
        """`clock` returns seconds that only grow."""
        self._limits = limits
        self._clock = clock
        self._callers: dict[str, OrderedDict[str, KeptResult]] = {}
        self._bytes: dict[str, int] = {}

    def __len__(self) -> int:
        return sum(map(len, self._callers.values()))

    @property
    def size_bytes(self) -> int:
        """Of all that is kept."""
        return sum(self._bytes.values())

    def get(self, caller: str, key: str) -> KeptResult | None:
        """Return what is kept under a caller's key, unless it is too old."""
        self._drop_old(caller)
        own = self._callers.get(caller)
        return None if own is None else own.get(key)

    def put(self, caller: str, key: str, run_id: str, digest: bytes, result: bytes) -> None:
        """Keep a result, unless it alone is more than a caller may keep."""
        kept = KeptResult(run_id, digest, result, self._clock())
        limits, size = self._limits, _size(key, kept)
        if size > limits.bytes_per_caller:
            return
        if key in self._callers.get(caller, {}):
            self._drop(caller, key)
        own = self._callers.setdefault(caller, OrderedDict())
        own[key] = kept
        self._bytes[caller] = self._bytes.get(caller, 0) + size
        while len(own) > limits.results_per_caller or self._bytes[caller] > limits.bytes_per_caller:
            self._drop(caller, next(iter(own)))
        if len(self) > limits.results or self.size_bytes > limits.bytes:
            for each in list(self._callers):
                self._drop_old(each)
        while len(self) > limits.results or self.size_bytes > limits.bytes:
            most = max(self._bytes, key=self._bytes.__getitem__)
            self._drop(most, next(iter(self._callers[most])))

    def _drop_old(self, caller: str) -> None:
        own = self._callers.get(caller)
        while own:
            key, oldest = next(iter(own.items()))
            if self._clock() - oldest.ended_s < self._limits.age_s:
                break
            self._drop(caller, key)

    def _drop(self, caller: str, key: str) -> None:
        own = self._callers[caller]
        self._bytes[caller] -= _size(key, own.pop(key))
        if not own:
            del self._callers[caller], self._bytes[caller]


def _size(key: str, kept: KeptResult) -> int:
    return len(key) + len(kept.result) + _OVERHEAD_BYTES
