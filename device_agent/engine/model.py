"""A GGUF model and its context, as llama.cpp holds them."""

from __future__ import annotations

import ctypes
import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import jinja2
import llama_cpp
import numpy as np
from jinja2.sandbox import ImmutableSandboxedEnvironment
from numpy.typing import NDArray

from device_agent.engine.llama_log import collect_errors
from protos.errors import InvalidTaskError, ModelLoadError

_GGUF_MAGIC = b"GGUF"
_load_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """What an answer's provenance says about the model that gave it."""

    name: str
    architecture: str
    quantisation: str
    parameters: int
    size_bytes: int
    vocabulary_size: int
    context_tokens: int
    sha256: str


class Model:
    """One loaded GGUF file with one context.

    Not thread-safe: one thread at a time may call `decode`.

    Raises:
        ModelLoadError: the file is missing, not a GGUF, truncated, or of an unknown kind.
    """

    def __init__(self, path: Path, *, context_tokens: int = 0, threads: int) -> None:
        if not path.is_file():
            raise ModelLoadError(f"{path}: no such model file")
        with path.open("rb") as file:
            magic = file.read(4)
        if magic != _GGUF_MAGIC:
            raise ModelLoadError(
                f"{path}: not a GGUF file (it begins with {magic!r}, not {_GGUF_MAGIC!r})"
            )
        self.path = path
        with _load_lock:
            errors = collect_errors()
            llama_cpp.llama_backend_init()
            model_parameters = llama_cpp.llama_model_default_params()
            model_parameters.n_gpu_layers = -1
            model = llama_cpp.llama_model_load_from_file(str(path).encode(), model_parameters)
            if model is None:
                reason = "; ".join(errors) or "llama.cpp gave no reason"
                size = path.stat().st_size
                raise ModelLoadError(f"{path} ({size:,} bytes): cannot be loaded: {reason}")
            self._model = model
            context_parameters = llama_cpp.llama_context_default_params()
            trained = llama_cpp.llama_model_n_ctx_train(model)
            self.context_tokens = min(context_tokens or trained, trained)
            context_parameters.n_ctx = self.context_tokens
            context_parameters.n_batch = min(self.context_tokens, 512)
            context_parameters.n_threads = threads
            context_parameters.n_threads_batch = threads
            context = llama_cpp.llama_init_from_model(model, context_parameters)
            if context is None:
                llama_cpp.llama_model_free(model)
                reason = "; ".join(errors) or "llama.cpp gave no reason"
                raise ModelLoadError(
                    f"{path}: no context of {self.context_tokens} tokens can be had: {reason}"
                )
            self._context = context
        self._vocabulary = llama_cpp.llama_model_get_vocab(model)
        self.vocabulary_size = int(llama_cpp.llama_vocab_n_tokens(self._vocabulary))
        self._batch_tokens = int(llama_cpp.llama_n_batch(context))
        self._position = 0

    def close(self) -> None:
        """Free llama.cpp's memory; the model must not be used afterwards."""
        llama_cpp.llama_free(self._context)
        llama_cpp.llama_model_free(self._model)

    def tokenize(self, text: str, *, add_special: bool = True) -> list[int]:
        """Split text into token ids; control tokens written in the text count as such."""
        encoded = text.encode()
        room = len(encoded) + 8
        ids = (llama_cpp.llama_token * room)()
        count = llama_cpp.llama_tokenize(
            self._vocabulary, encoded, len(encoded), ids, room, add_special, True
        )
        if count < 0:
            raise InvalidTaskError(f"a text of {len(encoded)} bytes cannot be tokenised")
        return list(ids[:count])

    def piece(self, token: int) -> bytes:
        """Return the bytes a token stands for (control tokens: none)."""
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            count = llama_cpp.llama_token_to_piece(self._vocabulary, token, buffer, room, 0, False)
            if count >= 0:
                return buffer.raw[:count]
            room = -count

    def is_end(self, token: int) -> bool:
        """Say whether a token ends a generation."""
        return bool(llama_cpp.llama_vocab_is_eog(self._vocabulary, token))

    def restart(self) -> None:
        """Forget everything decoded so far."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)
        self._position = 0

    def decode(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Decode tokens after those before; return the logits (vocabulary,) that follow the last.

        The array is a view into llama.cpp's memory, valid until the next call.
        """
        for start in range(0, len(tokens), self._batch_tokens):
            part = tokens[start : start + self._batch_tokens]
            ids = (llama_cpp.llama_token * len(part))(*part)
            status = llama_cpp.llama_decode(
                self._context, llama_cpp.llama_batch_get_one(ids, len(part))
            )
            if status != 0:
                raise InvalidTaskError(
                    f"llama.cpp could not decode at position {self._position} of a context "
                    f"of {self.context_tokens} tokens (status {status})"
                )
            self._position += len(part)
        logits = llama_cpp.llama_get_logits_ith(self._context, -1)
        return np.ctypeslib.as_array(logits, shape=(self.vocabulary_size,))

    def metadata(self, key: str) -> str:
        """Return a GGUF metadata value as text, empty where the file has none."""
        room = 1 << 16
        buffer = ctypes.create_string_buffer(room)
        count = llama_cpp.llama_model_meta_val_str(self._model, key.encode(), buffer, room)
        return buffer.value.decode(errors="replace") if count >= 0 else ""

    @cached_property
    def _chat_template(self) -> jinja2.Template:
        source = llama_cpp.llama_model_chat_template(self._model, None)
        if source is None:
            raise ModelLoadError(
                f"{self.path}: the file has no chat template; use a chat or instruction model"
            )
        # The template comes from a file somebody downloaded: it runs sandboxed.
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        return environment.from_string(source.decode())

    def chat_prompt(self, content: str) -> str:
        """Write a user's message as the model's own chat template wants it."""
        pieces = {}
        for name, token in (
            ("bos_token", llama_cpp.llama_vocab_bos(self._vocabulary)),
            ("eos_token", llama_cpp.llama_vocab_eos(self._vocabulary)),
        ):
            text = llama_cpp.llama_vocab_get_text(self._vocabulary, token) if token >= 0 else None
            pieces[name] = text.decode() if text else ""
        prompt = self._chat_template.render(
            messages=[{"role": "user", "content": content}], add_generation_prompt=True, **pieces
        )
        # `tokenize` adds the BOS token itself.
        return prompt.removeprefix(pieces["bos_token"]) if pieces["bos_token"] else prompt

    @cached_property
    def description(self) -> ModelDescription:
        """Describe the file, its SHA-256 included (read once)."""
        digest = hashlib.sha256()
        with self.path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        buffer = ctypes.create_string_buffer(256)
        llama_cpp.llama_model_desc(self._model, buffer, 256)
        words = buffer.value.decode().split()
        return ModelDescription(
            name=self.metadata("general.name") or self.path.stem,
            architecture=self.metadata("general.architecture"),
            quantisation=words[-1] if words else "",
            parameters=int(llama_cpp.llama_model_n_params(self._model)),
            size_bytes=self.path.stat().st_size,
            vocabulary_size=self.vocabulary_size,
            context_tokens=self.context_tokens,
            sha256=digest.hexdigest(),
        )
