"""JSON from outside, read strictly: bounded in depth, in values and in the length of numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from airloom.errors import InvalidTaskError
from airloom.log_text import one_line

MAX_DEPTH = 64
_LONGEST_NUMBER = 64


class NotJsonError(InvalidTaskError):
    """The body is not JSON, or JSON that means different things to different readers."""


def parse_json(body: bytes, max_values: int) -> Any:
    """Read JSON.

    Raises:
        NotJsonError: it is malformed, not UTF-8, nested more than 64 deep, has more than `max_values`
            elements and fields, numbers that are not finite or too long, or a key twice.
    """
    # A value costs some 60 bytes of memory however few it has here. Those in strings are counted
    # as well: a text with so many commas and brackets is far longer than any context.
    values = 1 + body.count(b",") + body.count(b"[") + body.count(b"{")
    if values > max_values:
        raise NotJsonError(
            f"the body has some {values:,} elements and fields: at most {max_values:,} are taken"
        )
    try:
        text = body.decode("utf-8")
        parsed = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_number,
            parse_constant=_constant,
        )
    except json.JSONDecodeError as error:
        raise NotJsonError(f"the body is not JSON: {error.msg} at character {error.pos}") from None
    except UnicodeDecodeError as error:
        raise NotJsonError(f"the body is not UTF-8: byte {error.start} cannot be read") from None
    except RecursionError:
        raise NotJsonError(f"the body is nested more than {MAX_DEPTH} deep") from None
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH:
        _check_depth(parsed)
    if "\\u" in text:
        _check_characters(parsed)
    return parsed


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise NotJsonError(f"the key {one_line(twice, 80)!r} is written twice in one object")
    return made


def _integer(digits: str) -> int:
    if len(digits) > _LONGEST_NUMBER:
        raise NotJsonError(
            f"a number has {len(digits)} digits: at most {_LONGEST_NUMBER} are taken"
        )
    return int(digits)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise NotJsonError(f"the number {one_line(text, 80)} is too large")
    return value


def _constant(name: str) -> Any:
    raise NotJsonError(f"the body is not JSON: {name} is no JSON number")


def _check_depth(parsed: Any) -> None:
    level = [parsed]
    for _ in range(MAX_DEPTH + 1):
        level = [
            child
            for value in level
            for child in (value.values() if isinstance(value, dict) else value)
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise NotJsonError(f"the body is nested more than {MAX_DEPTH} deep")


def _check_characters(parsed: Any) -> None:
    """Half of a surrogate pair can be escaped in JSON, but is no character of any text."""
    try:
        json.dumps(parsed, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        raise NotJsonError(
            f"a text of the body has {half}, half of a surrogate pair: no text can hold it"
        ) from None


def strict_route(max_values: int) -> type[APIRoute]:
    """A kind of route whose JSON bodies are read by `parse_json`."""

    class StrictRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def handle_strictly(request: Request) -> Response:
                kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
                body = await request.body()
                if body and (kind == "application/json" or kind.endswith("+json")):
                    # Where Starlette keeps what it has read: FastAPI then validates this.
                    request._json = parse_json(body, max_values)
                return await handle(request)

            return handle_strictly

    return StrictRoute
