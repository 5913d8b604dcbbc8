"""The recurrent part of a state that somebody else sent: one value that is no number would stay.

llama.cpp clears a cell for its next user by multiplying it with zero, which leaves NaN and infinity
where they are: whoever has that cell next would get nonsense. Keys and values are overwritten.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

_VALUE_TYPES: dict[int, np.dtype[Any]] = {0: np.dtype(np.float32), 1: np.dtype(np.float16)}
"""By ggml's number of the type."""
_LARGEST = 1e6
"""Far beyond what any trained state holds, and far below what overflows in the next steps."""
_ROW_HEAD = struct.Struct("<iQ")


def is_sound(state: bytes, length: int, layers: int) -> bool:
    """Whether the recurrent rows of a state of `length` positions are there, and hold plain numbers.

    They come last, in llama.cpp's layout: a cell's position, then a row for each layer and kind.
    """
    # One cell at the last position, of no other sequence; rows as they are; so many layers.
    head = struct.pack("<IiIII", 1, length - 1, 0, 0, layers)
    at = state.rfind(head)
    return at >= 0 and _rows_are_sound(memoryview(state)[at + len(head) :])


def _rows_are_sound(rows: memoryview) -> bool:
    if not rows:
        return False
    while rows:
        if len(rows) < _ROW_HEAD.size:
            return False
        kind, size = _ROW_HEAD.unpack_from(rows)
        rows = rows[_ROW_HEAD.size :]
        value_type = _VALUE_TYPES.get(kind)
        if value_type is None or size > len(rows) or size % value_type.itemsize:
            return False
        # Not «any above»: a comparison with NaN is false.
        if not (np.abs(np.frombuffer(rows[:size], value_type)) <= _LARGEST).all():
            return False
        rows = rows[size:]
    return True
