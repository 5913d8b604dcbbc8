"""What llama.cpp remembers of several token sequences, and the batches that extend them."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Literal

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from airloom.errors import AirloomError, ModelLoadError
from device_agent.engine import recurrent_state
from device_agent.engine.llama_log import collect_errors
from device_agent.engine.model import Model, loading

KeyValueType = Literal["f32", "f16", "q8_0", "q4_0"]

_GGML_TYPES = {
    "f32": llama_cpp.GGML_TYPE_F32,
    "f16": llama_cpp.GGML_TYPE_F16,
    "q8_0": llama_cpp.GGML_TYPE_Q8_0,
    "q4_0": llama_cpp.GGML_TYPE_Q4_0,
}


_CELLS_TOGETHER = 256

_STATE_HEAD = 8
"""Bytes of a state before the number of sequences: llama.cpp's mark and the sequence's number."""


_logits_address = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(
    ctypes.cast(llama_cpp.llama_get_logits, ctypes.c_void_p).value or 0
)
"""llama_get_logits, without an object made for what it points at: that takes longer than the call."""


def cells(tokens: int) -> int:
    """How many places llama.cpp provides, and attends to, where a sequence has so many tokens."""
    return -(-tokens // _CELLS_TOGETHER) * _CELLS_TOGETHER


class DecodeError(AirloomError):
    """llama.cpp refused a batch."""


class Batch:
    """Tokens of several sequences for one pass through the model, as llama.cpp wants them laid out."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.tokens = np.zeros(capacity, np.int32)
        self.positions = np.zeros(capacity, np.int32)
        self.sequences = np.zeros(capacity, np.int32)
        self.outputs = np.zeros(capacity, np.int8)
        self.size = 0
        self.output_count = 0
        # One number is set sooner through these than through NumPy.
        self._token_at, self._position_at = self.tokens.data, self.positions.data
        ones = np.ones(capacity, np.int32)
        first = self.sequences.ctypes.data
        pointers = np.arange(first, first + 4 * capacity, 4, dtype=np.uintp)
        # ctypes keeps addresses only: the arrays must live as long as the struct.
        self._kept = (ones, pointers)
        integers, addresses = (
            ctypes.POINTER(ctypes.c_int32),
            ctypes.POINTER(ctypes.POINTER(ctypes.c_int32)),
        )
        self.native = llama_cpp.llama_batch(
            n_tokens=0,
            token=self.tokens.ctypes.data_as(integers),
            embd=None,
            pos=self.positions.ctypes.data_as(integers),
            n_seq_id=ones.ctypes.data_as(integers),
            seq_id=pointers.ctypes.data_as(addresses),
            logits=self.outputs.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )

    @property
    def room(self) -> int:
        return self.capacity - self.size

    def clear(self) -> None:
        self.size = self.output_count = 0

    def add(self, token: int, position: int, sequence: int) -> None:
        """Add one token and ask for the logits that follow it."""
        at = self.size
        self.tokens[at] = token
        self.positions[at] = position
        self.sequences[at] = sequence
        self.outputs[at] = 1
        self.size = at + 1
        self.output_count += 1

    def extend(self, tokens: Sequence[int], position: int, sequence: int, *, output: bool) -> None:
        """Add a run of tokens; with `output`, ask for the logits that follow its last."""
        start, end = self.size, self.size + len(tokens)
        self.tokens[start:end] = tokens
        self.positions[start:end] = np.arange(position, position + len(tokens))
        self.sequences[start:end] = sequence
        self.outputs[start:end] = 0
        if output:
            self.outputs[end - 1] = 1
            self.output_count += 1
        self.size = end

    def advance(self, places: Sequence[int], tokens: Sequence[int]) -> None:
        """Put a token at each of these places, at the position after the one that was there."""
        token_at, position_at = self._token_at, self._position_at
        for place, token in zip(places, tokens, strict=True):
            token_at[place] = token
            position_at[place] += 1


class Context:
    """The memory of up to `sequences` sequences of `context_tokens` each, for one model.

    Not thread-safe: one thread at a time may use it. Each sequence has memory of its own, so that
    attention costs what that sequence is long, not what all of them are. At most `outputs` rows of
    logits come out of a pass (0: one for each token): with a large vocabulary, room for a batch full
    of them is hundreds of megabytes.

    Raises:
        ModelLoadError: llama.cpp cannot allocate it.
    """

    def __init__(
        self,
        model: Model,
        *,
        sequences: int = 1,
        context_tokens: int = 0,
        batch_tokens: int = 512,
        threads: int,
        outputs: int = 0,
        key_value_type: KeyValueType = "f16",
        embeddings: Literal["", "tokens", "pooled"] = "",
    ) -> None:
        trained = model.trained_context_tokens
        self.context_tokens = min(context_tokens or trained, trained)
        self.sequences = sequences
        self.batch_tokens = max(sequences, min(batch_tokens, sequences * self.context_tokens))
        self.key_value_type = key_value_type
        parameters = llama_cpp.llama_context_default_params()
        # llama.cpp rounds a sequence's share up itself: see `cells`.
        parameters.n_ctx = sequences * self.context_tokens
        parameters.n_batch = parameters.n_ubatch = self.batch_tokens
        parameters.n_seq_max = sequences
        parameters.n_outputs_max = min(outputs, self.batch_tokens)
        parameters.n_threads = parameters.n_threads_batch = threads
        parameters.type_k = parameters.type_v = _GGML_TYPES[key_value_type]
        parameters.kv_unified = False
        parameters.no_perf = True
        parameters.embeddings = bool(embeddings)
        if embeddings == "tokens":
            parameters.pooling_type = llama_cpp.LLAMA_POOLING_TYPE_NONE
        elif embeddings and model.pooling_type == llama_cpp.LLAMA_POOLING_TYPE_NONE:
            parameters.pooling_type = llama_cpp.LLAMA_POOLING_TYPE_MEAN
        self.model = model
        with loading:
            errors = collect_errors()
            native = llama_cpp.llama_init_from_model(model.native, parameters)
            if not native:
                reason = "; ".join(errors) or "llama.cpp gave no reason"
                raise ModelLoadError(
                    f"{model.path}: no context of {sequences} x {self.context_tokens} tokens "
                    f"can be had: {reason}"
                )
        self.native = native
        self._memory = llama_cpp.llama_get_memory(native)
        self.can_cut = not (
            llama_cpp.llama_model_is_recurrent(model.native)
            or llama_cpp.llama_model_is_hybrid(model.native)
        )
        """Whether a sequence can forget its end only: a recurrent model's state cannot be taken back."""
        self._width = model.vocabulary_size
        self._viewed = (0, 0)
        """Address and rows of the logits that `_view` looks at: making a view costs microseconds."""
        self._view = np.empty((0, self._width), np.float32)

    def close(self) -> None:
        """Free the memory; before the model's."""
        llama_cpp.llama_free(self.native)

    def decode(self, batch: Batch) -> NDArray[np.float32]:
        """Run the batch; return the logits (outputs, vocabulary) in the batch's order.

        The array is a view into llama.cpp's memory, valid until the next call.
        """
        batch.native.n_tokens = batch.size
        status = llama_cpp.llama_decode(self.native, batch.native)
        if status != 0:
            raise DecodeError(f"llama.cpp could not decode {batch.size} tokens (status {status})")
        count = batch.output_count
        if not count:
            return np.empty((0, self._width), np.float32)
        address: int = _logits_address(self.native)
        if self._viewed != (address, count):
            self._viewed = (address, count)
            flat = (ctypes.c_float * (count * self._width)).from_address(address)
            self._view = np.ctypeslib.as_array(flat).reshape(count, self._width)
        return self._view

    def trim(self, sequence: int, length: int) -> bool:
        """Forget a sequence from position `length` on; False where this model's memory cannot."""
        return bool(llama_cpp.llama_memory_seq_rm(self._memory, sequence, length, -1))

    def forget(self, sequence: int) -> None:
        """Forget all of a sequence."""
        llama_cpp.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def copy(self, source: int, target: int) -> None:
        """Make `target` remember all that `source` does."""
        llama_cpp.llama_memory_seq_cp(self._memory, source, target, -1, -1)

    @property
    def layout(self) -> str:
        """What must be equal in two contexts for the one to read the other's exported states."""
        if self._one_cache:
            return self.key_value_type
        return f"{self.key_value_type} in {self.sequences} sequences"

    @property
    def _one_cache(self) -> bool:
        """Whether the memory is a single cache of keys and values.

        Sliding windows and recurrent layers have others, whose states are passed on as they are.
        """
        return self.can_cut and not llama_cpp.llama_model_n_swa(self.model.native)

    def export_state(self, sequence: int) -> bytes:
        """A sequence's keys and values, as any context of the same model and layout takes them.

        llama.cpp writes how many sequences the context has, and for each the number of its cells,
        which is 0 for all but one; a context with another number of sequences refuses that. It is
        therefore written as a context of a single sequence would.
        """
        size = llama_cpp.llama_state_seq_get_size(self.native, sequence)
        buffer = (ctypes.c_uint8 * size)()
        written = llama_cpp.llama_state_seq_get_data(self.native, buffer, size, sequence)
        state: bytes = bytes(memoryview(buffer)[:written])
        if not self._one_cache:
            return state
        head, counts = (
            state[:_STATE_HEAD],
            np.frombuffer(state, np.uint32, offset=_STATE_HEAD + 4, count=self.sequences),
        )
        before = int(np.flatnonzero(counts)[0]) if counts.any() else 0
        after = self.sequences - 1 - before
        cells = state[_STATE_HEAD + 4 + 4 * before : len(state) - 4 * after]
        one: bytes = np.uint32(1).tobytes()
        return head + one + cells

    def import_state(self, sequence: int, state: bytes, length: int) -> bool:
        """Take over an exported state of `length` positions; False where it is none of this layout.

        llama.cpp checks the sizes of what it reads; whether the positions are those of the first
        `length` tokens is checked here, for a pass fails as a whole where they are not, and whether
        recurrent states are numbers.
        """
        layers = llama_cpp.llama_model_n_layer(self.model.native)
        if not self.can_cut and length and not recurrent_state.is_sound(state, length, layers):
            return False
        if self._one_cache:
            head, cells = state[:_STATE_HEAD], state[_STATE_HEAD + 4 :]
            if length and int.from_bytes(cells[:4], "little") != length:
                return False
            others = np.zeros(self.sequences - 1, np.uint32).tobytes()
            state = head + np.uint32(self.sequences).tobytes() + cells + others
        buffer = (ctypes.c_uint8 * len(state)).from_buffer_copy(state)
        taken = llama_cpp.llama_state_seq_set_data(self.native, buffer, len(state), sequence)
        first = int(llama_cpp.llama_memory_seq_pos_min(self._memory, sequence))
        last = int(llama_cpp.llama_memory_seq_pos_max(self._memory, sequence))
        begins = first == 0 or not self._one_cache or not length
        if taken and last == length - 1 and first >= -1 and begins:
            return True
        self.forget(sequence)
        return False

    def use_adapters(self, adapters: Sequence[tuple[object, float]]) -> None:
        """Apply these LoRA adapters, each with its scale, and no others, from the next pass on."""
        pointers = (llama_cpp.llama_adapter_lora_p_ctypes * len(adapters))(
            *(pointer for pointer, _ in adapters)
        )
        scales = (ctypes.c_float * len(adapters))(*(scale for _, scale in adapters))
        status = llama_cpp.llama_set_adapters_lora(self.native, pointers, len(adapters), scales)
        if status != 0:
            raise DecodeError(f"llama.cpp could not apply {len(adapters)} adapters")

    def embedding(self, sequence: int, width: int) -> NDArray[np.float32]:
        """The pooled embedding (width,) of a sequence after a pass; a copy."""
        pointer = llama_cpp.llama_get_embeddings_seq(self.native, sequence)
        vector: NDArray[np.float32] = np.ctypeslib.as_array(pointer, shape=(width,)).copy()
        return vector

    def token_embeddings(self, count: int, width: int) -> NDArray[np.float32]:
        """The embeddings (count, width) of a pass's tokens; valid until the next pass."""
        pointer = llama_cpp.llama_get_embeddings(self.native)
        rows: NDArray[np.float32] = np.ctypeslib.as_array(pointer, shape=(count, width))
        return rows
