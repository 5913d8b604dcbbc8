"""Vocabularies that llama.cpp's SentencePiece tokenizer reproduces exactly.

Both kinds share the layout: 3 control tokens, 256 byte tokens, then pieces. The space is written
`▁` (U+2581) and no prefix space is added.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import sentencepiece

UNKNOWN, BOS, EOS = 0, 1, 2
_CONTROL = ("<unk>", "<s>", "</s>")
_SPACE = "\u2581"


@dataclass(frozen=True)
class Pieces:
    """What a GGUF file stores of a vocabulary: one text, score and type for each token."""

    texts: list[str]
    scores: list[float]
    types: list[int]


class Vocabulary(Protocol):
    """Text to token ids, and the tables that make llama.cpp do the same."""

    @property
    def size(self) -> int: ...

    def encode(self, text: str) -> list[int]: ...

    def pieces(self) -> Pieces: ...


# Token types as gguf.TokenType numbers them.
_NORMAL, _UNKNOWN_TYPE, _CONTROL_TYPE, _BYTE = 1, 2, 3, 6


class CharacterVocabulary:
    """One token for each printable ASCII character; any other byte by byte fallback."""

    def __init__(self) -> None:
        self._characters = [chr(code) for code in range(32, 127)]
        self._id = {c: 3 + 256 + i for i, c in enumerate(self._characters)}

    @property
    def size(self) -> int:
        return 3 + 256 + len(self._characters)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for character in text:
            known = self._id.get(character)
            ids.extend([known] if known is not None else [3 + b for b in character.encode()])
        return ids

    def pieces(self) -> Pieces:
        normal = [_SPACE if c == " " else c for c in self._characters]
        return Pieces(
            texts=[*_CONTROL, *(f"<0x{b:02X}>" for b in range(256)), *normal],
            scores=[0.0] * 3 + [0.0] * 256 + [-float(i) for i in range(len(normal))],
            types=[_UNKNOWN_TYPE, _CONTROL_TYPE, _CONTROL_TYPE]
            + [_BYTE] * 256
            + [_NORMAL] * len(normal),
        )


class SubwordVocabulary:
    """A byte-pair vocabulary trained by SentencePiece."""

    def __init__(self, model: bytes) -> None:
        self.model = model
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)

    @classmethod
    def train(cls, texts: Iterable[str], size: int) -> SubwordVocabulary:
        """Train on texts; deterministic for the same texts and size."""
        written = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=written,
            model_type="bpe",
            vocab_size=size,
            byte_fallback=True,
            split_digits=True,
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            normalization_rule_name="identity",
            required_chars="".join(chr(code) for code in range(33, 127)),
            num_threads=1,
            minloglevel=2,
        )
        return cls(written.getvalue())

    @property
    def size(self) -> int:
        return int(self._processor.vocab_size())

    def encode(self, text: str) -> list[int]:
        return list(self._processor.encode(text))

    def pieces(self) -> Pieces:
        p = self._processor
        ids = range(self.size)
        return Pieces(
            texts=[p.id_to_piece(i) for i in ids],
            scores=[p.get_score(i) for i in ids],
            types=[
                _UNKNOWN_TYPE
                if p.is_unknown(i)
                else _CONTROL_TYPE
                if p.is_control(i)
                else _BYTE
                if p.is_byte(i)
                else _NORMAL
                for i in ids
            ],
        )
