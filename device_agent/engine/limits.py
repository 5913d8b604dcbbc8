"""What a request's fields may be: each is checked where it enters the engine's own types."""

from __future__ import annotations

import math
from typing import Any

from airloom.errors import InvalidTaskError

MAX_INT32 = 2**31 - 1
MAX_SEED = 2**64 - 1
MAX_LOGIT_BIASES = 4096
MAX_STOPS, MAX_STOP_CHARACTERS = 16, 256
MAX_ADAPTERS, MAX_ADAPTER_SCALE = 16, 100.0
MAX_NAME_CHARACTERS = 128
MAX_TOP_LOGPROBS = 20
MAX_TURNS = 1024
MAX_IMAGES, MAX_IMAGE_BYTES = 16, 16 << 20
MAX_GRAMMAR_BYTES = 128 << 10
MAX_PROMPT_BYTES = 16 << 20
"""Of any model; each refuses what its own context could not take long before that."""


def refuse(field: str, value: object, allowed: str) -> InvalidTaskError:
    """The error for a field whose value is not allowed."""
    text = repr(value)
    return InvalidTaskError(f"{field} is {text if len(text) <= 80 else text[:80] + '…'}: {allowed}")


def check_number(
    field: str,
    value: Any,
    lowest: float = -math.inf,
    highest: float = math.inf,
    *,
    allowed: str = "",
) -> None:
    """Raise InvalidTaskError unless the value is a finite number within the range."""
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    if not (numeric and math.isfinite(value) and lowest <= value <= highest):
        raise refuse(field, value, allowed or f"a number from {lowest:g} to {highest:g}")


def check_integer(
    field: str, value: Any, lowest: int, highest: int = MAX_INT32, *, allowed: str = ""
) -> None:
    """Raise InvalidTaskError unless the value is an integer within the range."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not (whole and lowest <= value <= highest):
        raise refuse(field, value, allowed or f"an integer from {lowest} to {highest}")


def check_text(field: str, value: Any, shortest: int, longest: int) -> None:
    """Raise InvalidTaskError unless the value is text of a length (in characters) in the range."""
    if not isinstance(value, str):
        raise refuse(field, value, "a text")
    if not shortest <= len(value) <= longest:
        raise InvalidTaskError(
            f"{field} has {len(value):,} characters: {shortest} to {longest:,} are taken"
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        raise refuse(field, value, "text that can be written as UTF-8") from None


def check_count(field: str, count: int, most: int) -> None:
    """Raise InvalidTaskError where a field has too many elements."""
    if count > most:
        raise InvalidTaskError(f"{field} has {count:,} elements: at most {most:,} are taken")


def check_bytes(field: str, count: int, most: int) -> None:
    """Raise InvalidTaskError where a field is empty or too large."""
    if not 0 < count <= most:
        raise InvalidTaskError(f"{field} has {count:,} bytes: 1 to {most:,} are taken")
