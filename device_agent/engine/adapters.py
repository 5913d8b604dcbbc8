"""LoRA adapters: loaded once, chosen request by request."""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import llama_cpp

from airloom.errors import InvalidTaskError, ModelLoadError, UnsupportedByModelError
from device_agent.engine.llama_log import collect_errors
from device_agent.engine.model import Model, check_is_gguf, loading
from device_agent.engine.requests import AdapterUse


@dataclass(frozen=True, slots=True)
class Adapter:
    """A loaded adapter file."""

    name: str
    path: Path
    size_bytes: int
    sha256: str
    invocation: tuple[int, ...]
    """An activated LoRA (aLoRA) applies from these tokens on; empty for an ordinary one."""
    native: object


@dataclass(frozen=True, slots=True)
class AdapterSet:
    """What is applied together; passes through the model mix sequences of one set only."""

    key: int
    """0 is the model alone."""
    uses: tuple[AdapterUse, ...] = ()
    natives: tuple[tuple[object, float], ...] = ()
    invocation: tuple[int, ...] = ()


BASE = AdapterSet(0)
UNKNOWN = AdapterSet(-1)
"""What is applied after an attempt to apply a set has failed."""

_SETS_KEPT = 256
"""A set that was forgotten gets a new key: its prompts are read anew, nothing else changes."""


class Adapters:
    """The adapters of one model by name, and the sets that requests made of them."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._adapters: dict[str, Adapter] = {}
        self._sets: OrderedDict[tuple[AdapterUse, ...], AdapterSet] = OrderedDict()
        self._keys = itertools.count(BASE.key + 1)
        # Requests may come from several event loops.
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[Adapter]:
        return iter(self._adapters.values())

    def load(self, name: str, path: Path) -> Adapter:
        """Load a LoRA GGUF; llama.cpp frees it with the model.

        Raises:
            ModelLoadError: no adapter, or made for another model, or the name is taken.
        """
        if name in self._adapters:
            raise ModelLoadError(f"{path}: an adapter named {name!r} is loaded already")
        check_is_gguf(path)
        with loading:
            errors = collect_errors()
            native = llama_cpp.llama_adapter_lora_init(self._model.native, str(path).encode())
            if not native:
                reason = "; ".join(errors) or "llama.cpp gave no reason"
                raise ModelLoadError(
                    f"{path}: no LoRA adapter for {self._model.path.name}: {reason}"
                )
        count = int(llama_cpp.llama_adapter_get_alora_n_invocation_tokens(native))
        tokens = llama_cpp.llama_adapter_get_alora_invocation_tokens(native) if count else ()
        adapter = Adapter(
            name=name,
            path=path,
            size_bytes=path.stat().st_size,
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
            invocation=tuple(int(tokens[i]) for i in range(count)),
            native=native,
        )
        self._adapters[name] = adapter
        return adapter

    def get(self, name: str) -> Adapter:
        """The adapter of that name; InvalidTaskError names those that are loaded."""
        try:
            return self._adapters[name]
        except KeyError:
            loaded = ", ".join(sorted(self._adapters)) or "none"
            raise UnsupportedByModelError(
                f"no adapter {name!r} is loaded; loaded: {loaded}"
            ) from None

    def resolve(self, uses: Sequence[AdapterUse]) -> AdapterSet:
        """The set for a request; the same adapters at the same scales are the same set.

        The sets that were asked for longest ago are forgotten: a client that asks for ever new
        scales does not fill the memory.
        """
        wanted = tuple(sorted((use for use in uses if use.scale != 0), key=lambda use: use.name))
        if not wanted:
            return BASE
        with self._lock:
            known = self._sets.get(wanted)
            if known is None:
                known = self._sets[wanted] = self._make(wanted)
                if len(self._sets) > _SETS_KEPT:
                    self._sets.popitem(last=False)
            self._sets.move_to_end(wanted)
        return known

    def _make(self, wanted: Sequence[AdapterUse]) -> AdapterSet:
        adapters = [self.get(use.name) for use in wanted]
        if len({use.name for use in wanted}) < len(wanted):
            raise InvalidTaskError("an adapter is asked for twice in one request")
        activated = [adapter for adapter in adapters if adapter.invocation]
        if activated and len(adapters) > 1:
            raise InvalidTaskError(
                f"{activated[0].name!r} is an activated LoRA, which is applied alone"
            )
        return AdapterSet(
            key=next(self._keys),
            uses=tuple(wanted),
            natives=tuple((a.native, u.scale) for a, u in zip(adapters, wanted, strict=True)),
            invocation=activated[0].invocation if activated else (),
        )


def applies_from(adapters: AdapterSet, prompt: Sequence[int]) -> int:
    """The first position of a prompt that the set applies to.

    An activated LoRA begins at the last place where its invocation stands (Greenewald et al. 2025,
    arXiv 2504.12397, section 3): what comes before is the base model's, and can be shared with it.

    Raises:
        InvalidTaskError: the invocation does not stand in the prompt.
    """
    if not adapters.invocation:
        return 0
    size = len(adapters.invocation)
    for start in range(len(prompt) - size, -1, -1):
        if tuple(prompt[start : start + size]) == adapters.invocation:
            return start
    raise InvalidTaskError(
        f"adapter {adapters.uses[0].name!r} is activated by tokens {list(adapters.invocation)}, "
        "which the prompt does not contain"
    )
