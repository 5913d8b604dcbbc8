"""Text to tokens within bounds: what cannot fit is refused by its bytes, before it is split."""

from __future__ import annotations

import re
from functools import cached_property

import llama_cpp

from airloom.errors import InvalidTaskError, UnsupportedByModelError
from device_agent.engine.limits import MAX_PROMPT_BYTES, check_text
from device_agent.engine.model import Model
from device_agent.engine.text_work import STACK_BYTES, TextWork

STACK_PER_BYTE = 1024
"""Of text in one piece; llama.cpp's regular expressions took 400 where measured (x86-64)."""
_SMALL_BYTES = 2048
"""Split at once: this needs 2 MiB of a stack of 8, and less time than going to a thread."""
LONGEST_PIECE = STACK_BYTES // STACK_PER_BYTE // 2
"""Two pieces side by side may be one match."""

_PIECES = re.compile(rb"[ \t\n\r\f\v]+|[^ \t\n\r\f\v]+")
_SPACES = re.compile(rb"[ \t\n\r\f\v]+")

_COVER_ALL_BYTES = (llama_cpp.LLAMA_VOCAB_TYPE_BPE, llama_cpp.LLAMA_VOCAB_TYPE_SPM)
"""Vocabularies whose tokens together hold every byte of a text; others have one for all that is
unknown, however long."""


class Tokenizer:
    """Splits text for one model, long ones on a thread of `work`."""

    def __init__(self, model: Model, work: TextWork) -> None:
        self._model = model
        self._work = work

    @cached_property
    def _longest_token_bytes(self) -> int:
        """An upper bound of the text that one token stands for; 0 where there is none."""
        vocabulary = self._model.vocabulary
        if llama_cpp.llama_vocab_type(vocabulary) not in _COVER_ALL_BYTES:
            return 0
        # As the file writes it: a space or a byte takes more room there than in the text.
        texts = (
            llama_cpp.llama_vocab_get_text(vocabulary, token)
            for token in range(self._model.vocabulary_size)
        )
        return max((len(text) for text in texts if text), default=0)

    async def tokenize(
        self, text: str, *, most_tokens: int, deadline_s: float | None = None
    ) -> list[int]:
        """Split a text that should have at most so many tokens; it may turn out to have more.

        Raises:
            UnsupportedByModelError: by its bytes alone it has more.
            InvalidTaskError: it has too long a piece without a space.
        """
        check_text("the text", text, 0, MAX_PROMPT_BYTES)
        encoded = text.encode()
        if len(encoded) <= _SMALL_BYTES:
            return self._model.tokenize(text)
        self.check_bytes(encoded, most_tokens)
        return await self._work.run(
            f"splitting {len(encoded):,} bytes of text into tokens",
            lambda: self._model.tokenize(text),
            deadline_s=deadline_s,
        )

    def check_bytes(self, encoded: bytes, most_tokens: int) -> None:
        """Raise as `tokenize` does, without splitting anything."""
        longest = self._longest_token_bytes
        if longest and len(encoded) > most_tokens * longest:
            # Special tokens may swallow the spaces around them: those do not count.
            least = len(_SPACES.sub(b"", encoded)) // longest
            if least > most_tokens:
                raise UnsupportedByModelError(
                    f"the text has {len(encoded):,} bytes, at least {least:,} tokens of at most "
                    f"{longest} bytes; {most_tokens:,} are taken here"
                )
        if len(encoded) > LONGEST_PIECE:
            piece = max(match.end() - match.start() for match in _PIECES.finditer(encoded))
            if piece > LONGEST_PIECE:
                raise InvalidTaskError(
                    f"the text has {piece:,} bytes in a row without a space (or of nothing else); "
                    f"at most {LONGEST_PIECE:,} can be split into tokens"
                )
