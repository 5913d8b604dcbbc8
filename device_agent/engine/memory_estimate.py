"""How much memory a model will need, before it is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import llama_cpp
import psutil

from airloom.errors import ModelLoadError
from device_agent.engine.context import KeyValueType, cells
from device_agent.engine.embeddings import LONGEST_TEXT, PASS_TOKENS, SEQUENCES
from device_agent.engine.llama_log import collect_errors
from device_agent.engine.model import check_is_gguf, loading, metadata_value

_BYTES_PER_VALUE: dict[KeyValueType, float] = {"f32": 4, "f16": 2, "q8_0": 34 / 32, "q4_0": 18 / 32}
_RUNTIME_BYTES = 120 << 20
"""Python with its libraries, measured with an agent that has loaded the smallest model."""
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_CGROUP_USED = Path("/sys/fs/cgroup/memory.current")


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The sizes that memory depends on."""

    file_bytes: int
    layers: int
    width: int
    feed_forward: int
    vocabulary: int
    key_values: int
    """Numbers kept for each token in each layer: keys and values together."""
    state: int
    """Numbers kept for each sequence in each layer, however long it is (recurrent models)."""
    trained_context_tokens: int
    causal: bool = True
    """Whether a text can be read in several passes."""


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Bytes by what they are for."""

    weights: int
    cache: int
    compute: int
    embeddings: int = 0
    """A context of their own, from the first text on that is embedded."""

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.compute + self.embeddings + _RUNTIME_BYTES

    def __str__(self) -> str:
        return (
            f"{mebibytes(self.total)} (weights {mebibytes(self.weights)}, keys and values "
            f"{mebibytes(self.cache)}, computation {mebibytes(self.compute)}, "
            + (f"embeddings {mebibytes(self.embeddings)}, " if self.embeddings else "")
            + f"the agent {mebibytes(_RUNTIME_BYTES)})"
        )


def mebibytes(size: int) -> str:
    """A size for people."""
    return f"{size / (1 << 20):,.0f} MiB"


def read_shape(path: Path) -> ModelShape:
    """Read a GGUF's sizes without its weights.

    Raises:
        ModelLoadError: it is no GGUF, or of an architecture that llama.cpp does not know.
    """
    check_is_gguf(path)
    with loading:
        errors = collect_errors()
        parameters = llama_cpp.llama_model_default_params()
        parameters.vocab_only = True
        native = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
        if not native:
            reason = "; ".join(errors) or "llama.cpp gave no reason"
            raise ModelLoadError(f"{path}: cannot be loaded: {reason}")
    try:
        return shape_of(native, path)
    finally:
        llama_cpp.llama_model_free(native)


def shape_of(native: object, path: Path) -> ModelShape:
    """The sizes of a model that llama.cpp has loaded from a file."""
    architecture = metadata_value(native, "general.architecture")

    def number(key: str, default: int = 0) -> int:
        text = metadata_value(native, f"{architecture}.{key}")
        # Some architectures give one number for each layer: the largest decides.
        parts = [int(float(part)) for part in text.strip("[]").split(",") if part.strip()]
        return max(parts, default=default)

    width, heads = number("embedding_length"), number("attention.head_count", 1)
    kv_heads = number("attention.head_count_kv", heads)
    key = number("attention.key_length", width // max(1, heads))
    value = number("attention.value_length", width // max(1, heads))
    inner, depth = number("ssm.inner_size"), number("ssm.state_size")
    convolved = inner + 2 * number("ssm.group_count") * depth
    state = max(0, number("ssm.conv_kernel") - 1) * convolved + depth * inner
    # RWKV keeps a matrix for each head, and the token before.
    state += width * (number("wkv.head_size") + number("token_shift_count"))
    vocabulary = llama_cpp.llama_model_get_vocab(native)
    return ModelShape(
        file_bytes=path.stat().st_size,
        layers=number("block_count"),
        width=width,
        feed_forward=max(number("feed_forward_length"), 2 * inner),
        vocabulary=int(llama_cpp.llama_vocab_n_tokens(vocabulary)),
        key_values=kv_heads * (key + value),
        state=state,
        trained_context_tokens=number("context_length"),
        causal=metadata_value(native, f"{architecture}.attention.causal") != "false",
    )


def estimate(
    shape: ModelShape,
    *,
    parallel: int,
    context_tokens: int,
    batch_tokens: int,
    key_value_type: KeyValueType,
    outputs: int,
    embeddings: bool = False,
) -> MemoryNeed:
    """What an engine with these settings will need; `outputs` is the rows of logits of a pass."""
    tokens = min(context_tokens or shape.trained_context_tokens, shape.trained_context_tokens)
    padded = cells(tokens)
    cache = parallel * padded * shape.layers * shape.key_values * _BYTES_PER_VALUE[key_value_type]
    # States are in single precision, whatever keys and values are in.
    states = parallel * shape.layers * shape.state * 4
    return MemoryNeed(
        weights=shape.file_bytes,
        cache=int(cache) + states,
        compute=_computation(shape, batch_tokens, padded, outputs),
        embeddings=_embeddings(shape) if embeddings else 0,
    )


def _computation(shape: ModelShape, batch_tokens: int, cache_tokens: int, outputs: int) -> int:
    # One pass keeps the residual, the attention's and the feed-forward's inputs and outputs at once.
    activations = batch_tokens * (6 * shape.width + 3 * shape.feed_forward) * 4
    masks = batch_tokens * cache_tokens * 2
    return activations + masks + 2 * outputs * shape.vocabulary * 4


def _embeddings(shape: ModelShape) -> int:
    tokens = cells(min(LONGEST_TEXT, shape.trained_context_tokens))
    rows = PASS_TOKENS if shape.causal else tokens
    sequences = SEQUENCES if shape.causal else 1
    cache = tokens * shape.layers * shape.key_values * 2 + shape.layers * shape.state * 4
    return sequences * cache + _computation(shape, rows, tokens, rows)


def available_bytes() -> int:
    """What this process may still take: of the machine, and of its control group."""
    available = int(psutil.virtual_memory().available)
    if _CGROUP_LIMIT.exists() and (limit := _CGROUP_LIMIT.read_text().strip()) != "max":
        available = min(available, int(limit) - int(_CGROUP_USED.read_text()))
    return available


def check_fits(path: Path, need: MemoryNeed, available: int) -> None:
    """Raise ModelLoadError with the numbers, and what would help, unless it fits."""
    if need.total > available:
        raise ModelLoadError(
            f"{path}: needs {need}, but {mebibytes(available)} are available; fewer `parallel`, a "
            "smaller `context_tokens`, `key_value_type: q8_0` or a smaller model would need less"
        )
