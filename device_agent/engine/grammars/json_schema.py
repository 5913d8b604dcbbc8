"""JSON schemas as grammars: each keyword of a schema is enforced, or the schema is refused.

Objects without `additionalProperties` have no others, and properties come in the schema's order, as
with OpenAI's structured outputs. Alternatives of `oneOf` should exclude each other: any of them is taken.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn
from urllib.parse import unquote

from llama_cpp.llama_grammar import JSON_GBNF

from airloom.errors import InvalidTaskError
from device_agent.engine.grammars.json_pattern import from_pattern
from device_agent.engine.limits import MAX_GRAMMAR_BYTES

MAX_SCHEMA_BYTES = 64 << 10
_MAX_VISITS = 2048
"""Of a schema's parts."""
_MAX_RULES = 8192
_LARGEST_COUNT = 2000
_MAX_EXCLUDED_NAMES = 4096
"""Characters of all names together that additional properties may not have."""

_OF_TYPE = {
    "object": ("properties", "required", "additionalProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "string": ("pattern", "format", "minLength", "maxLength"),
    "integer": (),
    "number": (),
    "boolean": (),
    "null": (),
}
_ALONE = ("$ref", "anyOf", "oneOf", "allOf", "const", "enum")
"""Each of these says all; only a type may stand beside the last two."""
_DEFINITIONS = ("$defs", "definitions")
_ENFORCED = frozenset(
    ["type", *_ALONE, *_DEFINITIONS, *(key for keys in _OF_TYPE.values() for key in keys)]
)
_ANNOTATIONS = frozenset(
    [
        *("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"),
        *("$schema", "$id", "$comment", "strict"),
    ]
)
_FORMATS = ("date", "time", "date-time", "uuid")

# One blank at most between two tokens of JSON, so that a model does not go on with blanks for ever.
_COMMON_RULES = r"""
space ::= " "?
value ::= object | array | string | number | boolean | null
object ::= "{" space ( pair ( "," space pair )* )? "}" space
pair ::= string ":" space value
array ::= "[" space ( value ( "," space value )* )? "]" space
string ::= "\"" char* "\"" space
char ::= [^"\\\x00-\x1F] | "\\" ( ["\\/bfnrt] | "u" ( [0-9a-cA-CefEF] hex | [dD] [0-7] ) hex hex )
plain ::= [^"\\\x00-\x1F]
hex ::= [0-9a-fA-F]
number ::= "-"? whole ( "." [0-9]{1,20} )? ( [eE] [-+]? [0-9]{1,3} )? space
integer ::= "-"? whole space
whole ::= "0" | [1-9] [0-9]{0,18}
boolean ::= ( "true" | "false" ) space
null ::= "null" space
date ::= [0-9]{4} "-" ( "0" [1-9] | "1" [0-2] ) "-" ( "0" [1-9] | [1-2] [0-9] | "3" [0-1] )
time ::= hour ":" [0-5] [0-9] ":" [0-5] [0-9] ( "." [0-9]{1,9} )? ( "Z" | [-+] hour ":" [0-5] [0-9] )
hour ::= [01] [0-9] | "2" [0-3]
date-time ::= date "T" time
uuid ::= hex{8} "-" hex{4} "-" hex{4} "-" hex{4} "-" hex{12}
""".strip()


def any_json() -> str:
    """The grammar of a JSON object."""
    return str(JSON_GBNF)


def from_json_schema(schema: Mapping[str, Any]) -> str:
    """Write a JSON schema as a grammar.

    Raises:
        InvalidTaskError: it uses what cannot be written so, or would become too large; says where.
    """
    try:
        text = json.dumps(schema, allow_nan=False)
        if len(text) > MAX_SCHEMA_BYTES:
            raise InvalidTaskError(
                f"the JSON schema has {len(text):,} bytes; at most {MAX_SCHEMA_BYTES:,} are taken"
            )
        return _Writer(json.loads(text)).write()
    except RecursionError:
        raise InvalidTaskError("the JSON schema is nested too deeply") from None
    except (TypeError, ValueError) as error:
        raise InvalidTaskError(f"the JSON schema cannot be written as JSON: {error}") from error


def _refuse(path: str, problem: str) -> NoReturn:
    raise InvalidTaskError(f"the JSON schema at {path:.300} {problem}")


def _literal(value: object) -> str:
    """A value as JSON, as a literal of a grammar."""
    # Half of a surrogate pair has no bytes of its own: JSON writes it \ud800, as Python does here.
    text = json.dumps(value, ensure_ascii=False).encode(errors="backslashreplace").decode()
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _is_of(value: object, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return kind in ("integer", "number")
    names = {float: "number", str: "string", list: "array", dict: "object"}
    return kind == next((name for of, name in names.items() if isinstance(value, of)), "null")


class _Writer:
    """The rules of one schema; what is visited gives the name of its rule."""

    def __init__(self, schema: object) -> None:
        self._whole = schema
        self._visits = self._bytes = 0
        self._rules: dict[str, str] = {}
        self._names: dict[str, str] = {}
        """Of each rule by what it says, so that it is written once."""
        self._references: dict[str, str] = {}
        self._open: frozenset[str] = frozenset()
        """References that lead to what is being written, with no character of it before them."""

    def write(self) -> str:
        root = self._visit(self._whole, "$")
        rules = [f"{name} ::= {body}" for name, body in self._rules.items()]
        return "\n".join([f"root ::= {root}", *rules, _COMMON_RULES])

    def _rule(self, kind: str, body: str, path: str) -> str:
        if body not in self._names:
            self._names[body] = f"{kind}-{len(self._rules)}"
            self._set(self._names[body], body, path)
        return self._names[body]

    def _set(self, name: str, body: str, path: str) -> None:
        self._rules[name] = body
        self._bytes += len(f"{name} ::= {body}\n".encode())
        if self._bytes > MAX_GRAMMAR_BYTES - len(_COMMON_RULES) or len(self._rules) > _MAX_RULES:
            _refuse(
                path,
                f"grows too large: with it, the grammar has more than {MAX_GRAMMAR_BYTES:,} bytes or "
                f"{_MAX_RULES:,} rules",
            )

    def _visit(self, schema: object, path: str) -> str:
        self._visits += 1
        if self._visits > _MAX_VISITS:
            _refuse(path, f"is one part too many: at most {_MAX_VISITS:,} are taken")
        if schema is True:
            return "value"
        if not isinstance(schema, dict):
            _refuse(path, f"is {schema!r:.80}: a schema is needed, which is an object or true")
        for key in schema:
            if key not in _ENFORCED | _ANNOTATIONS:
                _refuse(
                    path,
                    f"has {key!r:.80}, which cannot be enforced; these can: "
                    + ", ".join(sorted(_ENFORCED)),
                )
        keywords = [key for key in schema if key not in (*_ANNOTATIONS, *_DEFINITIONS)]
        if not keywords:
            return "value"
        for alone in _ALONE:
            if alone in keywords:
                return self._alone(alone, schema, keywords, path)
        types = _types(schema, keywords, path)
        return self._either([self._of_type(kind, schema, path) for kind in types], path)

    def _either(self, rules: Iterable[str], path: str) -> str:
        names = list(dict.fromkeys(rules))
        return names[0] if len(names) == 1 else self._rule("either", " | ".join(names), path)

    # What says all.

    def _alone(self, keyword: str, schema: dict[str, Any], keywords: list[str], path: str) -> str:
        of_values = keyword in ("const", "enum")
        for other in keywords:
            if other != keyword and not (of_values and other == "type"):
                _refuse(
                    path,
                    f"has {other!r} beside {keyword!r}, and both cannot be enforced at once; "
                    f"{keyword!r} can with nothing beside it"
                    + (" but 'type'" if of_values else ""),
                )
        value = schema[keyword]
        if keyword == "$ref":
            return self._reference(value, path)
        if keyword == "const":
            return self._values([value], schema, [f"{path}.const"], path)
        if not isinstance(value, list) or not value:
            _refuse(f"{path}.{keyword}", f"is {value!r:.80}: a list of at least one is needed")
        if keyword == "allOf" and len(value) > 1:
            _refuse(
                f"{path}.allOf",
                f"has {len(value)} schemas, which cannot be enforced at once; one can: put what all "
                "of them ask for into it",
            )
        places = [f"{path}.{keyword}[{index}]" for index in range(len(value))]
        if keyword == "enum":
            return self._values(value, schema, places, path)
        return self._either(map(self._visit, value, places), path)

    def _values(
        self, values: list[Any], schema: dict[str, Any], places: list[str], path: str
    ) -> str:
        if "type" in schema:
            types = _types(schema, ["type"], path)
            for value, place in zip(values, places, strict=True):
                if not any(_is_of(value, kind) for kind in types):
                    _refuse(
                        place,
                        f"is {value!r:.80}, which the 'type' beside it excludes; a value of the type "
                        f"{' or '.join(types)} can stand here",
                    )
        return self._rule("values", f"( {' | '.join(map(_literal, values))} ) space", path)

    def _reference(self, reference: object, path: str) -> str:
        if not isinstance(reference, str) or (reference != "#" and reference[:2] != "#/"):
            _refuse(
                f"{path}.$ref", f"is {reference!r:.80}: only a place in this schema, #/…, can be"
            )
        if reference in self._open:
            _refuse(f"{path}.$ref", f"is {reference!r:.80}, which leads back here without end")
        if reference not in self._references:
            target, place = self._whole, "$"
            for part in reference.split("/")[1:]:
                key = unquote(part).replace("~1", "/").replace("~0", "~")
                if isinstance(target, list) and key.isdecimal() and int(key[:6]) < len(target):
                    target = target[int(key[:6])]
                elif isinstance(target, dict) and key in target:
                    target = target[key]
                else:
                    _refuse(
                        f"{path}.$ref",
                        f"is {reference!r:.80}: there is no {key!r:.80} at {place:.300}",
                    )
                place += f".{key}"
            name = self._references[reference] = f"reference-{len(self._references)}"
            open_before = self._open
            self._open = open_before | {reference}
            self._set(name, self._visit(target, place), place)
            self._open = open_before
        return self._references[reference]

    # What depends on the type.

    def _of_type(self, kind: str, schema: dict[str, Any], path: str) -> str:
        writers = {"object": self._object, "array": self._array, "string": self._string}
        if kind not in writers:
            return kind
        open_before, self._open = self._open, frozenset()
        rule = writers[kind](schema, path)
        self._open = open_before
        return rule

    def _string(self, schema: dict[str, Any], path: str) -> str:
        given = [key for key in _OF_TYPE["string"] if key in schema]
        least, most = _counts(schema, "minLength", "maxLength", path)
        if not given:
            return "string"
        if given[0] in ("pattern", "format") and len(given) > 1:
            _refuse(
                path,
                f"has {given[1]!r} beside {given[0]!r}, and both cannot be enforced at once; either "
                "alone can, and a pattern can count: ^[a-z]{2,5}$",
            )
        if given[0] == "pattern":
            body = from_pattern(schema["pattern"], f"{path}.pattern")
        elif given[0] == "format":
            body = schema["format"]
            if body not in _FORMATS:
                _refuse(
                    f"{path}.format",
                    f"is {body!r:.80}, which cannot be enforced; these can: {', '.join(_FORMATS)}; "
                    "others may be written as a 'pattern'",
                )
        else:
            body = f"char{{{least},{'' if most is None else most}}}"
        return self._rule("string", f'"\\"" {body} "\\"" space', path)

    def _array(self, schema: dict[str, Any], path: str) -> str:
        least, most = _counts(schema, "minItems", "maxItems", path)
        if "prefixItems" in schema or isinstance(schema.get("items"), list):
            body = self._tuple(schema, least, most, path)
        elif most == 0:
            body = '""'
        else:
            item = self._visit(schema.get("items", True), f"{path}.items")
            upper = "" if most is None else most - 1
            body = f'{item} ( "," space {item} ){{{max(least - 1, 0)},{upper}}}'
            body = body if least else f"( {body} )?"
        return self._rule("array", f'"[" space {body} "]" space', path)

    def _tuple(self, schema: dict[str, Any], least: int, most: int | None, path: str) -> str:
        keyword = "prefixItems" if "prefixItems" in schema else "items"
        if keyword == "prefixItems" and schema.get("items", False) is not False:
            _refuse(
                path,
                "has 'items' beside 'prefixItems', and both cannot be enforced at once; either alone "
                "can, and 'items': false beside 'prefixItems'",
            )
        items = schema[keyword]
        if not isinstance(items, list) or not items:
            _refuse(f"{path}.{keyword}", f"is {items!r:.80}: a list of at least one is needed")
        if not least <= len(items) <= (len(items) if most is None else most):
            _refuse(
                path,
                f"has 'minItems' or 'maxItems' beside {keyword!r}: an array of all its {len(items)} "
                f"items can be enforced, no other length",
            )
        rules = [self._visit(item, f"{path}.{keyword}[{at}]") for at, item in enumerate(items)]
        return ' "," space '.join(rules)

    def _object(self, schema: dict[str, Any], path: str) -> str:
        properties, required = schema.get("properties", {}), schema.get("required", [])
        if not isinstance(properties, dict):
            _refuse(f"{path}.properties", f"is {properties!r:.80}: an object of schemas is needed")
        if not isinstance(required, list):
            _refuse(f"{path}.required", f"is {required!r:.80}: a list of names is needed")
        for name in required:
            if not isinstance(name, str) or name not in properties:
                _refuse(
                    f"{path}.required",
                    f"has {name!r:.80}, which cannot be enforced, because 'properties' does not say "
                    "what it is; a name that stands there can be required",
                )
        needed, pairs = set(required), []
        for name, part in properties.items():
            value = self._visit(part, f"{path}.properties.{name}")
            pair = self._rule("pair", f'{_literal(name)} space ":" space {value}', path)
            pairs.append((pair, name in needed))
        additional = schema.get("additionalProperties", "properties" not in schema)
        others = None
        if additional is not False:
            value = self._visit(additional, f"{path}.additionalProperties")
            key = self._key_besides(properties, path)
            others = self._rule("pair", f'{key} space ":" space {value}', path)
        return self._rule(
            "object", f'"{{" space {self._members(pairs, others, path)} "}}" space', path
        )

    def _members(self, pairs: list[tuple[str, bool]], others: str | None, path: str) -> str:
        """An object's pairs in their order, each with whether it is required, then any others."""
        rest = self._rule("rest", f'( "," space {others} )*' if others else '""', path)
        beginnings = [f"{others} {rest}", '""'] if others else ['""']
        for pair, required in reversed(pairs):
            beginnings = [f"{pair} {rest}"] + ([] if required else beginnings)
            following = f'"," space {pair}' if required else f'( "," space {pair} )?'
            rest = self._rule("rest", f"{following} {rest}", path)
        return f"( {' | '.join(beginnings)} )"

    def _key_besides(self, taken: Iterable[str], path: str) -> str:
        """A key that is none of these. Such keys have no escapes, in which a taken one could hide."""
        names = {name for name in taken if not re.search(r'["\\\x00-\x1f]', name)}
        if sum(map(len, names)) > _MAX_EXCLUDED_NAMES:
            _refuse(
                f"{path}.additionalProperties",
                f"is beside names of more than {_MAX_EXCLUDED_NAMES:,} characters together, from "
                "which others cannot be told; false can be enforced",
            )
        beginnings = {name[:end] for name in names for end in range(len(name) + 1)} | {""}
        following: dict[str, list[str]] = {beginning: [] for beginning in beginnings}
        for beginning in sorted(beginnings - {""}):
            following[beginning[:-1]].append(beginning)
        rules: dict[str, str] = {}
        for beginning in sorted(beginnings, key=len, reverse=True):
            marks = "".join(f"\\U{ord(longer[-1]):08X}" for longer in following[beginning])
            ways = [f'[^"\\\\\\x00-\\x1F{marks}] plain*']
            ways += [
                f"[\\U{ord(longer[-1]):08X}] {rules[longer]}" for longer in following[beginning]
            ]
            if beginning not in names:
                ways.append('""')
            rules[beginning] = self._rule("key", " | ".join(ways), path)
        return f'"\\"" {rules[""]} "\\""'


def _types(schema: dict[str, Any], keywords: list[str], path: str) -> list[str]:
    """The types that a schema names, or the one that its keywords speak of."""
    if "type" not in schema:
        meant = [kind for kind, keys in _OF_TYPE.items() if not set(keys).isdisjoint(keywords)]
        if len(meant) > 1:
            _refuse(
                path,
                f"has keywords for {' and '.join(meant)}, and no 'type', which can say that either may be",
            )
        return meant
    named: Any = schema["type"]
    types: list[Any] = named if isinstance(named, list) else [named]
    for kind in types or [named]:
        if not isinstance(kind, str) or kind not in _OF_TYPE:
            _refuse(f"{path}.type", f"is {named!r:.80}; these can be: {', '.join(_OF_TYPE)}")
    for key in keywords:
        if key != "type" and not any(key in _OF_TYPE[kind] for kind in types):
            (kind,) = (kind for kind, keys in _OF_TYPE.items() if key in keys)
            _refuse(
                path,
                f"has {key!r}, which says nothing about the type {' or '.join(types)}; it can stand "
                f"beside the type {kind}",
            )
    return list(types)


def _counts(schema: dict[str, Any], least: str, most: str, path: str) -> tuple[int, int | None]:
    for key in (least, most):
        value = schema.get(key, 0)
        if (
            isinstance(value, bool)
            or not isinstance(value, int)
            or not 0 <= value <= _LARGEST_COUNT
        ):
            _refuse(path, f"has {key!r}: {value!r:.80}; 0 to {_LARGEST_COUNT} can be counted")
    if schema.get(least, 0) > schema.get(most, _LARGEST_COUNT):
        _refuse(path, f"has {least!r} {schema[least]} above {most!r} {schema[most]}")
    return schema.get(least, 0), schema.get(most)
