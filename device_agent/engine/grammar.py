"""Output that must follow a grammar (GBNF) or a JSON schema."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Mapping
from typing import Any

import llama_cpp
import numpy as np
from llama_cpp.llama_grammar import JSON_GBNF, json_schema_to_gbnf
from numpy.typing import NDArray

from airloom.errors import InvalidTaskError
from device_agent.engine.llama_log import collect_errors
from device_agent.engine.model import Model, loading

_LONGEST_GRAMMAR = 1 << 17
_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


def any_json() -> str:
    """The grammar of a JSON object."""
    return str(JSON_GBNF)


_FOLLOWED = frozenset(
    [
        *("type", "enum", "const", "properties", "required", "additionalProperties", "items"),
        *("prefixItems", "minItems", "maxItems", "pattern", "minLength", "maxLength"),
        *("anyOf", "oneOf", "allOf", "$ref", "$defs", "definitions", "format"),
    ]
)
_SAYS_NOTHING = frozenset(
    [
        *("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"),
        *("$schema", "$id", "$comment"),
    ]
)
_COUNTS = ("minItems", "maxItems", "minLength", "maxLength")
_LARGEST_COUNT = 2000
"""Repetitions are written out in the grammar; llama.cpp itself takes no more."""
_HOLD_SCHEMAS_BY_NAME = ("properties", "$defs", "definitions")


def _check_keywords(schema: object, path: str = "$") -> None:
    """Refuse what the converter would pass over: a constraint that is not kept helps nobody."""
    if isinstance(schema, list):
        for index, part in enumerate(schema):
            _check_keywords(part, f"{path}[{index}]")
    if not isinstance(schema, dict):
        return
    for key, value in schema.items():
        if key not in _FOLLOWED | _SAYS_NOTHING:
            raise InvalidTaskError(
                f"the JSON schema at {path} has {key!r}, which cannot be enforced; these can: "
                + ", ".join(sorted(_FOLLOWED))
            )
        if key in _COUNTS and not (isinstance(value, int) and 0 <= value <= _LARGEST_COUNT):
            raise InvalidTaskError(
                f"the JSON schema at {path} has {key!r}: {value!r}; 0 to {_LARGEST_COUNT} can be counted"
            )
        if key in _HOLD_SCHEMAS_BY_NAME and isinstance(value, dict):
            for name, part in value.items():
                _check_keywords(part, f"{path}.{key}.{name}")
        elif key not in ("enum", "const", *_SAYS_NOTHING):
            _check_keywords(value, f"{path}.{key}")


def from_json_schema(schema: Mapping[str, Any]) -> str:
    """Write a JSON schema as a grammar.

    Raises:
        InvalidTaskError: it uses what cannot be written so, or would become too large.
    """
    try:
        _check_keywords(schema)
        grammar = json_schema_to_gbnf(json.dumps(schema))
    except RecursionError:
        raise InvalidTaskError("the JSON schema is nested too deeply") from None
    except InvalidTaskError:
        raise
    # The converter documents no exceptions of its own: it fails in the way of what it met.
    except Exception as error:
        raise InvalidTaskError(
            f"the JSON schema cannot be written as a grammar: {type(error).__name__}: {error}"
        ) from error
    return check_size(grammar)


def check_size(grammar: str) -> str:
    """Return the grammar unless it is too large to be followed in time."""
    if len(grammar) > _LONGEST_GRAMMAR:
        raise InvalidTaskError(
            f"the grammar has {len(grammar):,} characters; at most {_LONGEST_GRAMMAR:,} are taken"
        )
    return grammar


class Grammar:
    """One generation's place in a grammar."""

    def __init__(self, model: Model, gbnf: str) -> None:
        with loading:
            errors = collect_errors()
            native = llama_cpp.llama_sampler_init_grammar(
                model.vocabulary, check_size(gbnf).encode(), b"root"
            )
            if not native:
                reason = "; ".join(errors) or "llama.cpp gave no reason"
                raise InvalidTaskError(f"not a grammar (GBNF with a rule `root`): {reason}")
        self._native = native
        self._one = np.zeros(1, _CANDIDATE)
        self._all: NDArray[Any] | None = None

    def close(self) -> None:
        """Free llama.cpp's memory."""
        if self._native:
            llama_cpp.llama_sampler_free(self._native)
            self._native = None

    def _apply(self, candidates: NDArray[Any]) -> None:
        array = llama_cpp.llama_token_data_array(
            data=candidates.ctypes.data_as(llama_cpp.llama_token_data_p),
            size=len(candidates),
            selected=-1,
            sorted=False,
        )
        llama_cpp.llama_sampler_apply(self._native, ctypes.byref(array))

    def allows(self, token: int) -> bool:
        """Whether the grammar lets this token come next."""
        self._one[0] = (token, 0.0, 0.0)
        self._apply(self._one)
        return bool(np.isfinite(self._one["logit"][0]))

    def restrict(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """The logits with every token that may not come next at minus infinity.

        Raises:
            InvalidTaskError: no token of this vocabulary can go on.
        """
        if self._all is None:
            self._all = np.zeros(len(logits), _CANDIDATE)
        self._all["id"] = np.arange(len(logits))
        self._all["logit"] = logits
        self._apply(self._all)
        restricted: NDArray[np.float32] = self._all["logit"].copy()
        if not np.isfinite(restricted).any():
            raise InvalidTaskError("no token of the model's vocabulary can follow the grammar here")
        return restricted

    def accept(self, token: int) -> None:
        """Move on past a token that `allows` approved."""
        llama_cpp.llama_sampler_accept(self._native, token)
