"""JSON schemas as grammars; what is too large once written out is refused before it is."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from llama_cpp.llama_grammar import JSON_GBNF, SchemaConverter

from airloom.errors import InvalidTaskError
from device_agent.engine.limits import MAX_GRAMMAR_BYTES

MAX_SCHEMA_BYTES = 64 << 10
MAX_PATTERN_ELEMENTS = 4096
"""Of a regular expression with all its repetitions written out."""
_MAX_VISITS = 2048
"""Of a schema's parts; one that is referred to may be visited again."""
_MAX_RULES = 8192
_MAX_RULE_NAME = 1024

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
_HOLD_SCHEMAS_BY_NAME = ("properties", "$defs", "definitions")


def any_json() -> str:
    """The grammar of a JSON object."""
    return str(JSON_GBNF)


def from_json_schema(schema: Mapping[str, Any]) -> str:
    """Write a JSON schema as a grammar.

    Raises:
        InvalidTaskError: it uses what cannot be written so, or would become too large; says where.
    """
    try:
        text = json.dumps(schema)
        if len(text) > MAX_SCHEMA_BYTES:
            raise InvalidTaskError(
                f"the JSON schema has {len(text):,} bytes; at most {MAX_SCHEMA_BYTES:,} are taken"
            )
        _check_keywords(schema, "$")
        converter = _BoundedConverter()
        converter.visit(converter.resolve_refs(json.loads(text), "schema"), "")
        grammar = str(converter.format_grammar())
    except RecursionError:
        raise InvalidTaskError("the JSON schema is nested too deeply") from None
    except InvalidTaskError:
        raise
    # The converter documents no exceptions of its own: it fails in the way of what it met.
    except Exception as error:
        raise InvalidTaskError(
            f"the JSON schema cannot be written as a grammar: {type(error).__name__}: {error}"
        ) from error
    return grammar


def _check_keywords(schema: object, path: str) -> None:
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
        if key == "pattern":
            check_pattern(value, f"{path}.pattern")
        if key in _HOLD_SCHEMAS_BY_NAME and isinstance(value, dict):
            for name, part in value.items():
                _check_keywords(part, f"{path}.{key}.{name}")
        elif key not in ("enum", "const", *_SAYS_NOTHING):
            _check_keywords(value, f"{path}.{key}")
    for least, most in (("minItems", "maxItems"), ("minLength", "maxLength")):
        if least in schema and most in schema and schema[least] > schema[most]:
            raise InvalidTaskError(
                f"the JSON schema at {path} has {least!r} {schema[least]} above {most!r} {schema[most]}"
            )


_TIMES = re.compile(r"\{\s*([0-9]{1,6})?\s*(?:(,)\s*([0-9]{1,6})?\s*)?\}")
_SET = re.compile(r"\[(?:\\.|[^\]\\])*\]", re.DOTALL)


def check_pattern(pattern: object, path: str) -> None:
    """Count a regular expression's elements with its repetitions written out.

    Raises:
        InvalidTaskError: there are too many, or its brackets do not match.
    """
    if not isinstance(pattern, str):
        raise InvalidTaskError(f"the JSON schema at {path} is {pattern!r:.80}: a text is needed")
    sizes, last = [0], [0]
    """Of each open group the elements so far, and how many of them a repetition would repeat."""
    at = 0
    while at < len(pattern):
        mark = pattern[at]
        times = 1
        if mark == "(":
            sizes.append(0)
            last.append(0)
            at += 1
            continue
        if mark == ")" and len(sizes) > 1:
            size = sizes.pop()
            last.pop()
            at += 1
        elif mark == "[" and (match := _SET.match(pattern, at)):
            size, at = 1, match.end()
        elif mark in "*+?":
            size, at = 0, at + 1
        elif mark == "{" and (match := _TIMES.match(pattern, at)):
            numbers = [int(number) for number in match.group(1, 3) if number]
            times, size, at = max([1, *numbers]), 0, match.end()
        elif mark in ")[]{}":
            raise InvalidTaskError(
                f"the JSON schema at {path}, character {at}: {mark!r} has no counterpart; write "
                f"\\{mark} for the character"
            )
        else:
            size, at = 1, at + (2 if mark == "\\" else 1)
        if size:
            last[-1] = size
        sizes[-1] += size if times == 1 else last[-1] * (times - 1)
        if times > 1:
            last[-1] *= times
        if sum(sizes) > MAX_PATTERN_ELEMENTS:
            raise InvalidTaskError(
                f"the JSON schema at {path} has more than {MAX_PATTERN_ELEMENTS:,} elements with its "
                "repetitions written out"
            )
    if len(sizes) > 1:
        raise InvalidTaskError(f"the JSON schema at {path} has a '(' without a ')'")


class _BoundedConverter(SchemaConverter):  # type: ignore[misc]
    """llama.cpp's converter, counting what it makes."""

    def __init__(self) -> None:
        super().__init__(prop_order={}, allow_fetch=False, dotall=False, raw_pattern=False)
        self._visits = self._written = 0

    def visit(self, schema: Any, name: str) -> str:
        self._visits += 1
        if self._visits > _MAX_VISITS or len(name) > _MAX_RULE_NAME:
            raise InvalidTaskError(
                f"the JSON schema has more than {_MAX_VISITS:,} parts, or names that are longer than "
                f"{_MAX_RULE_NAME:,} characters together, at {name[:80]!r}"
            )
        return str(super().visit(schema, name))

    def _add_rule(self, name: str, rule: str) -> str:
        self._written += len(rule)
        if self._written > MAX_GRAMMAR_BYTES or len(self._rules) > _MAX_RULES:
            raise InvalidTaskError(
                f"the JSON schema at {name[:80]!r}: with it, the grammar has more than "
                f"{MAX_GRAMMAR_BYTES:,} bytes or {_MAX_RULES:,} rules"
            )
        return str(super()._add_rule(name, rule))
