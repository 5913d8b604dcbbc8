"""The texts of a vocabulary's tokens, character by character."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class VocabularyText:
    """Tokens by length, and their first, second, … characters as columns.

    Characters are numbered: `code_points` (characters,) has them in rising order. `tokens` (whole,)
    are the tokens whose text is whole characters, the longest first; `columns[n]` holds the numbers of
    their characters at place n, for as many of them as are longer than n. `parts` are the tokens
    that begin or end within a character.
    """

    def __init__(self, pieces: Sequence[bytes]) -> None:
        texts: dict[int, str] = {}
        parts: list[int] = []
        for token, piece in enumerate(pieces):
            if not piece or piece[0] == 0:
                continue
            try:
                texts[token] = piece.decode()
            except UnicodeDecodeError:
                parts.append(token)
        order = sorted(texts, key=lambda token: -len(texts[token]))
        self.tokens = np.array(order, np.int32)
        self.parts = np.array(parts, np.int32)
        self.code_points = np.array(sorted(set(map(ord, set().union(*texts.values())))), np.int32)
        lengths = np.array([len(texts[token]) for token in order], np.int64)
        flat = np.frombuffer("".join(texts[token] for token in order).encode("utf-32-le"), np.int32)
        numbers = np.searchsorted(self.code_points, flat).astype(np.int32)
        starts = np.concatenate(([0], np.cumsum(lengths)[:-1])) if len(lengths) else lengths
        longer = [int(np.searchsorted(-lengths, -n)) for n in range(max(lengths, default=0))]
        self.columns: list[NDArray[np.int32]] = [
            numbers[starts[:count] + place] for place, count in enumerate(longer)
        ]
