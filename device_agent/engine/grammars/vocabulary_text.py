"""The texts of a vocabulary's tokens, character by character."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def code_points_beginning(data: bytes) -> tuple[int, int]:
    """The first and the last character whose UTF-8 begins with these one to three bytes."""
    length = 2 if data[0] < 0xE0 else 3 if data[0] < 0xF0 else 4
    value = data[0] & (0x7F >> length)
    for byte in data[1:]:
        value = value << 6 | byte & 0x3F
    left = 6 * (length - len(data))
    least = {2: 0x80, 3: 0x800, 4: 0x10000}[length]
    return max(least, value << left), ((value + 1) << left) - 1


class VocabularyText:
    """Tokens by length, and their first, second, … characters as columns.

    Characters are numbered: `code_points` (characters,) has them in rising order. `tokens` (whole,)
    are the tokens whose text is whole characters, the longest first; `columns[n]` holds the numbers of
    their characters at place n, for as many of them as are longer than n.

    `leads` are the tokens that are the beginning of one character, `lead_ranges` of which ones;
    `unfinished` end within a character after others; `continuing` begin within one. `has_text`
    (vocabulary,) is false for control tokens.
    """

    def __init__(self, pieces: Sequence[bytes]) -> None:
        texts: dict[int, str] = {}
        leads: list[int] = []
        unfinished: list[int] = []
        continuing: list[int] = []
        self.has_text = np.array([bool(piece) and piece[0] != 0 for piece in pieces], bool)
        for token in np.flatnonzero(self.has_text).tolist():
            piece = pieces[token]
            try:
                texts[token] = piece.decode()
            except UnicodeDecodeError as error:
                if piece[0] & 0xC0 == 0x80:
                    continuing.append(token)
                elif error.reason == "unexpected end of data":
                    (unfinished if error.start else leads).append(token)
        self.leads, self.unfinished = np.array(leads, np.int32), np.array(unfinished, np.int32)
        self.continuing = np.array(continuing, np.int32)
        ranges = [code_points_beginning(pieces[token]) for token in leads]
        self.lead_ranges = (
            np.array([first for first, _ in ranges], np.int32),
            np.array([last for _, last in ranges], np.int32),
        )
        order = sorted(texts, key=lambda token: -len(texts[token]))
        self.tokens = np.array(order, np.int32)
        self.code_points = np.array(sorted(map(ord, set().union(*texts.values()))), np.int32)
        lengths = np.array([len(texts[token]) for token in order], np.int64)
        flat = np.frombuffer("".join(texts[token] for token in order).encode("utf-32-le"), np.int32)
        numbers = np.searchsorted(self.code_points, flat).astype(np.int32)
        starts = np.concatenate(([0], np.cumsum(lengths)[:-1])) if len(lengths) else lengths
        longer = [int(np.searchsorted(-lengths, -n)) for n in range(max(lengths, default=0))]
        self.columns: list[NDArray[np.int32]] = [
            numbers[starts[:count] + place] for place, count in enumerate(longer)
        ]
