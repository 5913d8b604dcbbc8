"""A GGUF file's weights, vocabulary and chat template, as llama.cpp holds them."""

from __future__ import annotations

import ctypes
import hashlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import llama_cpp

from airloom.errors import InvalidTaskError, ModelLoadError, UnsupportedByModelError
from device_agent.engine.allocator import give_back_large_buffers
from device_agent.engine.chat_template import (
    OWN_TEMPLATE,
    SAY_ANOTHER_TEMPLATE,
    ChosenTemplate,
    TemplateChoice,
    choose_template,
)
from device_agent.engine.grammars.vocabulary_text import VocabularyText
from device_agent.engine.llama_log import collect_errors

_GGUF_MAGIC = b"GGUF"
loading = threading.Lock()
"""llama.cpp reports errors for the whole process: one load at a time can tell which are its own."""


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
    reads_images: bool = False


def check_is_gguf(path: Path) -> None:
    """Raise ModelLoadError unless a file is there and begins as GGUF files do."""
    if not path.is_file():
        raise ModelLoadError(f"{path}: no such model file")
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != _GGUF_MAGIC:
        raise ModelLoadError(
            f"{path}: not a GGUF file (it begins with {magic!r}, not {_GGUF_MAGIC!r})"
        )


def metadata_value(native: object, key: str) -> str:
    """A model's metadata value as text, empty where its file has none."""
    room = 1 << 16
    buffer = ctypes.create_string_buffer(room)
    count = llama_cpp.llama_model_meta_val_str(native, key.encode(), buffer, room)
    return buffer.value.decode(errors="replace") if count >= 0 else ""


class _Pieces(dict[int, bytes]):
    """What each token stands for (control tokens: nothing), asked of llama.cpp once."""

    def __init__(self, vocabulary: object) -> None:
        super().__init__()
        self._vocabulary = vocabulary

    def __missing__(self, token: int) -> bytes:
        room, buffer = 64, ctypes.create_string_buffer(64)
        while True:
            count = llama_cpp.llama_token_to_piece(self._vocabulary, token, buffer, room, 0, False)
            if count >= 0:
                break
            room = -count
            buffer = ctypes.create_string_buffer(room)
        self[token] = buffer.raw[:count]
        return self[token]


class Model:
    """The weights and the vocabulary of one GGUF file; contexts share them.

    Raises:
        ModelLoadError: the file is missing, not a GGUF, truncated, or of an unknown kind, or the
            chat template that was chosen for it cannot be used.
    """

    def __init__(
        self, path: Path, *, name: str = "", template: TemplateChoice = OWN_TEMPLATE
    ) -> None:
        """`name` is the user's; without one it is the file's own."""
        check_is_gguf(path)
        self.path = path
        self._name = name
        with loading:
            errors = collect_errors()
            give_back_large_buffers()
            llama_cpp.llama_backend_init()
            parameters = llama_cpp.llama_model_default_params()
            parameters.n_gpu_layers = -1
            native = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
            if not native:
                reason = "; ".join(errors) or "llama.cpp gave no reason"
                size = path.stat().st_size
                raise ModelLoadError(f"{path} ({size:,} bytes): cannot be loaded: {reason}")
        self.native = native
        self.vocabulary = llama_cpp.llama_model_get_vocab(native)
        self.pieces: Mapping[int, bytes] = _Pieces(self.vocabulary)
        self.vocabulary_size = int(llama_cpp.llama_vocab_n_tokens(self.vocabulary))
        self.trained_context_tokens = int(llama_cpp.llama_model_n_ctx_train(native))
        self.embedding_width = int(llama_cpp.llama_model_n_embd_out(native))
        source = llama_cpp.llama_model_chat_template(native, None)
        own = None if source is None else source.decode(errors="replace")
        try:
            self.chat_template: ChosenTemplate = choose_template(
                own, template, self._template_marks
            )
        except ModelLoadError:
            self.close()
            raise

    def close(self) -> None:
        """Free llama.cpp's memory; the model must not be used afterwards."""
        llama_cpp.llama_model_free(self.native)

    def tokenize(
        self, text: str, *, add_special: bool = True, parse_special: bool = True
    ) -> list[int]:
        """Split text into token ids.

        `add_special` puts the model's beginning token first where it has one; `parse_special`
        takes control tokens that are written in the text, as templates do, for what they name.
        """
        encoded = text.encode()
        room = len(encoded) + 8
        ids = (llama_cpp.llama_token * room)()
        count = llama_cpp.llama_tokenize(
            self.vocabulary, encoded, len(encoded), ids, room, add_special, parse_special
        )
        if count < 0:
            raise InvalidTaskError(f"a text of {len(encoded)} bytes cannot be tokenised")
        return list(ids[:count])

    @cached_property
    def end_tokens(self) -> frozenset[int]:
        """The tokens that end a generation."""
        return frozenset(
            token
            for token in range(self.vocabulary_size)
            if llama_cpp.llama_vocab_is_eog(self.vocabulary, token)
        )

    @cached_property
    def vocabulary_text(self) -> VocabularyText:
        """The texts of all tokens, laid out to be compared with a grammar together."""
        return VocabularyText([self.pieces[token] for token in range(self.vocabulary_size)])

    @property
    def causal(self) -> bool:
        """Whether each token sees only those before it, so that text can be continued."""
        architecture = self.metadata("general.architecture")
        encodes = bool(llama_cpp.llama_model_has_encoder(self.native))
        return not encodes and self.metadata(f"{architecture}.attention.causal") != "false"

    @property
    def pooling_type(self) -> int:
        """How the file says that its embeddings are pooled."""
        text = self.metadata(f"{self.metadata('general.architecture')}.pooling_type")
        return int(text) if text else llama_cpp.LLAMA_POOLING_TYPE_NONE

    def metadata(self, key: str) -> str:
        """Return a GGUF metadata value as text, empty where the file has none."""
        return metadata_value(self.native, key)

    def user_prompt(self, content: str) -> str:
        """Write a single message of a user as the model's chat template wants it."""
        return self.chat_prompt([{"role": "user", "content": content}])

    def chat_prompt(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Write messages (role, content) as the model's own chat template wants them.

        Raises:
            UnsupportedByModelError: there is no template that can be used.
            InvalidTaskError: the template takes no such conversation.
        """
        template, problem = self.chat_template.template, self.chat_template.problem
        if template is None:
            raise UnsupportedByModelError(
                f"{self.path.name} cannot continue conversations: {problem}; it continues text only, "
                f"until {SAY_ANOTHER_TEMPLATE}"
            )
        return template.render(messages)

    @cached_property
    def _template_marks(self) -> dict[str, str]:
        marks = {}
        for name, token in (
            ("bos_token", llama_cpp.llama_vocab_bos(self.vocabulary)),
            ("eos_token", llama_cpp.llama_vocab_eos(self.vocabulary)),
        ):
            text = llama_cpp.llama_vocab_get_text(self.vocabulary, token) if token >= 0 else None
            marks[name] = text.decode() if text else ""
        return marks

    @cached_property
    def description(self) -> ModelDescription:
        """Describe the file, its SHA-256 included (read once)."""
        digest = hashlib.sha256()
        with self.path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        buffer = ctypes.create_string_buffer(256)
        llama_cpp.llama_model_desc(self.native, buffer, 256)
        words = buffer.value.decode().split()
        return ModelDescription(
            name=self._name or self.metadata("general.name") or self.path.stem,
            architecture=self.metadata("general.architecture"),
            quantisation=words[-1] if words else "",
            parameters=int(llama_cpp.llama_model_n_params(self.native)),
            size_bytes=self.path.stat().st_size,
            vocabulary_size=self.vocabulary_size,
            context_tokens=self.trained_context_tokens,
            sha256=digest.hexdigest(),
        )
