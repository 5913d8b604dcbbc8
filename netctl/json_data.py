"""Dataclasses as JSON and back, checked on the way in."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from functools import cache
from typing import Any, TypeVar

from airloom.errors import ConfigurationError

Data = TypeVar("Data")


def to_json(data: Any) -> str:
    """Write a dataclass."""
    return json.dumps(asdict(data))


def from_json(kind: type[Data], text: str) -> Data:
    """Read what `to_json` wrote; ConfigurationError names the field that is wrong."""
    return _checked(kind, json.loads(text))


def from_python(kind: type[Data], value: Any) -> Data:
    """The same from JSON that was parsed already."""
    return _checked(kind, value)


def _checked(kind: type[Data], value: Any) -> Data:
    # Loaded when used: a board that only measures starts faster without.
    import pydantic

    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    if isinstance(value, dict) and (unknown := [name for name in value if name not in names]):
        raise ConfigurationError(f"there is no field {unknown[0]!r}; there are {', '.join(names)}")
    try:
        hashable: Any = kind
        checked: Data = _adapter(hashable).validate_python(value)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(first["msg"], field=field or None) from error
    return checked


@cache
def _adapter(kind: type[Any]) -> Any:
    import pydantic

    return pydantic.TypeAdapter(kind)
