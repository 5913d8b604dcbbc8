"""JSON schemas as grammars: what is enforced, and what is refused by its place."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airloom.errors import InvalidTaskError
from device_agent.engine.grammars import gbnf
from device_agent.engine.grammars.json_pattern import from_pattern
from device_agent.engine.grammars.json_schema import from_json_schema
from device_agent.engine.grammars.states import DEAD, GrammarStates


def no_token(text: str) -> int:
    raise AssertionError(f"a grammar of a schema names the token {text!r}")


def accepts(schema: dict[str, Any], text: str) -> bool:
    """Whether the grammar of a schema lets a whole text through, character by character."""
    states = GrammarStates(gbnf.parse(from_json_schema(schema), no_token))
    state = states.start()
    for character in text:
        state = states.step(state, ord(character))
        if state == DEAD:
            return False
    return states.is_whole(state)


STRING = {"type": "string"}
PERSON = {
    "type": "object",
    "properties": {"name": STRING, "age": {"type": "integer"}, "mail": STRING},
    "required": ["age"],
}
TREE = {
    "$defs": {
        "tree": {
            "type": "object",
            "properties": {"of": {"type": "array", "items": {"$ref": "#/$defs/tree"}}},
            "required": ["of"],
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/tree",
}


@pytest.mark.parametrize(
    ("schema", "place", "problem"),
    [
        ({"minimum": 1}, "$.properties.x", "has 'minimum', which cannot be enforced; these can"),
        ({"allOf": [STRING, STRING]}, "$.properties.x.allOf", "put what all of them ask for"),
        (
            {"type": "string", "pattern": "^a*$", "maxLength": 3},
            "$.properties.x",
            r"has 'maxLength' beside 'pattern', .* a pattern can count",
        ),
        (
            {"type": "string", "pattern": "^a*$", "format": "date"},
            "$.properties.x",
            "has 'format' beside 'pattern'",
        ),
        (
            {"type": "string", "format": "email"},
            "$.properties.x.format",
            "is 'email', which cannot be enforced; these can: date, time, date-time, uuid",
        ),
        (
            {"$ref": "#/$defs/a", "pattern": "^a$"},
            "$.properties.x",
            r"has 'pattern' beside '\$ref', and both cannot be enforced at once",
        ),
        ({"anyOf": [STRING], "enum": [1]}, "$.properties.x", "has 'enum' beside 'anyOf'"),
        ({"const": 1, "enum": [1]}, "$.properties.x", r"has 'enum' beside 'const', .* but 'type'"),
        (
            {"type": "string", "enum": ["a", 1]},
            "$.properties.x.enum[1]",
            "is 1, which the 'type' beside it excludes; a value of the type string",
        ),
        ({"type": "integer", "const": True}, "$.properties.x.const", "is True, which the 'type'"),
        (
            {"prefixItems": [STRING], "items": STRING},
            "$.properties.x",
            "has 'items' beside 'prefixItems'",
        ),
        (
            {"prefixItems": [STRING], "maxItems": 4, "minItems": 2},
            "$.properties.x",
            "an array of all its 1 items can be enforced",
        ),
        (
            {"type": "object", "required": ["b"], "properties": {"a": STRING}},
            "$.properties.x.required",
            "has 'b', which cannot be enforced, because 'properties' does not say",
        ),
        ({"type": "integer", "pattern": "^1$"}, "$.properties.x", "says nothing about the type"),
        (
            {"pattern": "^1$", "items": STRING},
            "$.properties.x",
            "has keywords for array and string",
        ),
        ({"type": "text"}, "$.properties.x.type", "is 'text'; these can be: object, array"),
        ({"type": []}, "$.properties.x.type", r"is \[\]; these can be"),
        ({"items": False}, "$.properties.x.items", "is False: a schema is needed"),
        ({"enum": []}, "$.properties.x.enum", "a list of at least one is needed"),
        ({"minItems": True, "type": "array"}, "$.properties.x", "has 'minItems': True; 0 to 2000"),
        ({"$ref": "other.json"}, "$.properties.x.$ref", "only a place in this schema"),
        ({"$ref": "#/$defs/b"}, "$.properties.x.$ref", r"there is no 'b' at \$\.\$defs"),
        ({"$ref": "#/properties/x"}, "$.properties.x.$ref", "leads back here without end"),
        ({"anyOf": [STRING, {"not": {}}]}, "$.properties.x.anyOf[1]", "has 'not'"),
        ({"pattern": "a"}, "$.properties.x.pattern", "begins with \\^ and ends with \\$"),
        ({"pattern": "^a|b$"}, "$.properties.x.pattern", r"write \^\(a\|b\)\$"),
        ({"pattern": "^(?=a)a$"}, "$.properties.x.pattern", r"groups are written \(…\)"),
        ({"pattern": "^\\bb$"}, "$.properties.x.pattern", r"the escape \\b cannot be followed"),
        ({"pattern": "^[z-a]$"}, "$.properties.x.pattern", "from one character up to another"),
        ({"pattern": "^((a?b*)c?)+$"}, "$.properties.x.pattern", "repeats without end what may be"),
        ({"pattern": "^\ud800$"}, "$.properties.x.pattern", "half of a surrogate pair"),
    ],
)
def test_what_cannot_be_enforced_is_refused_by_its_place(
    schema: dict[str, Any], place: str, problem: str
) -> None:
    whole = {"type": "object", "properties": {"x": schema}, "$defs": {"a": STRING}}
    with pytest.raises(
        InvalidTaskError, match=f"^the JSON schema at {re.escape(place)}[ ,].*{problem}"
    ):
        from_json_schema(whole)


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        (STRING, ['"a\\nb"', '"é😀"', '"\\u0041"'], ['"a\nb"', '"\\ud83d"', '"\x1f"']),
        ({"minLength": 2, "maxLength": 3}, ['"ab"', '"a\\n\\u0041"'], ['"a"', '"abcd"', '"\n\n"']),
        ({"type": ["string", "null"], "pattern": "^a+$"}, ['"aa"', "null"], ['"b"', "1"]),
        ({"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": STRING}}, ['""'], ["{}", "1"]),
        ({"type": "array", "minItems": 2}, ['[1, {"a": []}]'], ["[]", "[1]"]),
        ({"items": STRING, "minItems": 1, "maxItems": 2}, ['["a"]'], ["[]", '["", "", ""]', "[1]"]),
        ({"items": STRING, "maxItems": 1}, ["[]", '["a"]'], ['["", ""]']),
        ({"type": "array", "maxItems": 0}, ["[]"], ["[1]"]),
        (
            {
                "prefixItems": [STRING, {"type": "null"}],
                "minItems": 2,
                "maxItems": 2,
                "items": False,
            },
            ['["a", null]'],
            ['["a"]', '["a", null, 1]', '[null, "a"]'],
        ),
        ({"enum": ['é\n"\\', 1, None]}, ['"é\\n\\"\\\\"', "1", "null"], ['"é\n\\"\\\\"', "2"]),
        ({"type": "integer", "enum": [1, 2]}, ["1", "2"], ["3", '"1"']),
        ({"const": {"a": [1]}}, ['{"a": [1]}'], ['{"a": [2]}']),
        ({"type": "integer"}, ["0", "-12"], ["01", "1.5", "+1"]),
        ({"type": "number"}, ["0.5", "1e-07", "-3"], ["00.5", ".5", "NaN"]),
        ({"format": "date"}, ['"2024-12-31"'], ['"2024-13-01"', '"x"']),
        ({"format": "date-time"}, ['"2024-12-31T23:59:59.123456Z"'], ['"2024-12-31"']),
        ({"format": "uuid"}, ['"01234567-89ab-cdef-0123-456789abcdef"'], ['"0123"']),
        (
            PERSON,
            ['{"name": "a", "age": 1, "mail": ""}', '{"age": 1, "mail": ""}', '{"age":1}'],
            ['{"name": "a"}', '{"age": 1,}', '{"age": 1, "b": 1}', '{, "age": 1}', "{}"],
        ),
        (
            PERSON | {"additionalProperties": {"type": "boolean"}},
            ['{"age": 1, "ag": true, "agent": false, "": true}', '{"age": 1}'],
            ['{"age": 1, "age": true}', '{"age": 1, "mail": true}', '{"age": 1, "b": 1}'],
        ),
        ({"additionalProperties": True}, ["{}", '{"a": [1]}'], ["[]"]),
        ({"type": "object", "additionalProperties": False}, ["{}"], ['{"a": 1}']),
        ({"type": "object"}, ["{}", '{"a": {"b": null}}'], ["1"]),
        (TREE, ['{"of": [{"of": []}, {"of": []}]}'], ['{"of": [1]}']),
        (
            # A property and a definition of one name are two things.
            {
                "properties": {"a": {"enum": [1]}, "b": {"$ref": "#/$defs/a"}},
                "$defs": {"a": STRING},
                "required": ["a", "b"],
            },
            ['{"a": 1, "b": "x"}'],
            ['{"a": 1, "b": 1}'],
        ),
        ({"properties": {"a": {"$ref": "#"}}}, ['{"a": {"a": {}}}'], ['{"a": 1}']),
        (
            {"title": "t", "description": "d", "default": 1, "examples": [1], "$schema": "s"}
            | {"$id": "i", "$comment": "c", "deprecated": False, "readOnly": True, "strict": True}
            | {"type": "null"},
            ["null"],
            ["1"],
        ),
        ({"description": "anything"}, ["1", '{"a": [""]}', "null"], ["x"]),
    ],
)
def test_right_answers_pass_and_wrong_ones_do_not(
    schema: dict[str, Any], right: list[str], wrong: list[str]
) -> None:
    assert [text for text in right if not accepts(schema, text)] == []
    assert [text for text in wrong if accepts(schema, text)] == []


PATTERNS = [
    "^(a|bc)*[x-z]?$", r"^\d{2,3}-[\w.]+$", r"^[^a]{2}$", '^["\\\\]+$', r"^.\n?$", r"^(?:ab?|c){2}$",
    r"^[\s\S]{0,3}$", r"^(|a)b{2,}?$", r"^\x41\u0062[\-\]]$", r"^\W\D\S$", "^é+$", r"^\(\)\|$",
]  # fmt: skip


@given(st.data())
@settings(max_examples=150)
def test_what_matches_a_pattern_passes_and_what_does_not_does_not(data: st.DataObject) -> None:
    pattern = data.draw(st.sampled_from(PATTERNS))
    matching = st.from_regex(re.compile(pattern, re.ASCII), fullmatch=True)
    # Python's \s has four characters more, and its `.` the line ends that Unicode adds.
    odd = re.compile("[\x1c-\x1f\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff]")
    text = data.draw(
        (matching | st.text('ab"\\\n19-. é', max_size=5)).filter(lambda t: not odd.search(t))
    )
    expected = re.fullmatch(pattern[1:-1], text, re.ASCII) is not None
    written = json.dumps(text, ensure_ascii=False)
    assert accepts({"pattern": pattern}, written) == expected


@given(st.text("ab()[]{}*+?|\\.^$-,0123456789", max_size=30))
@settings(max_examples=300)
def test_any_pattern_is_written_or_refused(pattern: str) -> None:
    try:
        grammar = from_json_schema({"type": "string", "pattern": f"^{pattern}$"})
    except InvalidTaskError as error:
        assert "the JSON schema at $.pattern" in str(error)
        return
    gbnf.parse(grammar, no_token)


def test_patterns_are_counted_with_their_repetitions() -> None:
    from_pattern("^[a-z]{1,2000}$", "$")
    from_pattern(r"^\(([0-9]{3}\) ){100}$", "$")
    with pytest.raises(InvalidTaskError, match="more than 4,096"):
        from_pattern("^(ab){2000}c{200}$", "$")


def test_what_is_referred_to_often_is_written_once() -> None:
    parts: dict[str, Any] = {
        f"_{n}": {"type": "array", "prefixItems": [{"$ref": f"#/$defs/_{n + 1}"}] * 4}
        for n in range(30)
    }
    parts["_30"] = {"type": "null"}
    grammar = from_json_schema({"$ref": "#/$defs/_0", "$defs": parts})
    assert grammar.count("reference-30 ::=") == 1


def test_a_schema_of_too_many_parts_is_refused_by_the_first_too_many() -> None:
    schema = {"properties": {f"p{n}": {} for n in range(2500)}}
    with pytest.raises(InvalidTaskError, match=r"at \$\.properties\.p2047 is one part too many"):
        from_json_schema(schema)


Case = tuple[dict[str, Any], Any]
"""A schema and a value of it."""
NAMES = st.text(max_size=4).filter(lambda name: name.isprintable())
SCALARS = (
    st.text(max_size=6).map(lambda text: (STRING, text))
    | st.text(min_size=1, max_size=4).map(lambda text: ({"minLength": 1, "maxLength": 4}, text))
    | st.integers(-(10**12), 10**12).map(lambda number: ({"type": "integer"}, number))
    | st.floats(allow_nan=False, allow_infinity=False, width=32).map(
        lambda number: ({"type": "number"}, number)
    )
    | st.sampled_from([({"type": ["boolean", "null"]}, True), ({"type": "null"}, None)])
    | st.dates().map(lambda day: ({"type": "string", "format": "date"}, day.isoformat()))
    | st.uuids().map(lambda name: ({"type": "string", "format": "uuid"}, str(name)))
    | st.lists(st.text(max_size=4), min_size=1).map(lambda values: ({"enum": values}, values[-1]))
)


def array_of(case: Case) -> st.SearchStrategy[Case]:
    schema, value = case
    return st.integers(0, 4).map(
        lambda count: (
            {"type": "array", "items": schema, "minItems": count // 2, "maxItems": 4},
            [value] * count,
        )
    )


def object_of(members: dict[str, tuple[Case, bool, bool]]) -> Case:
    schema = {
        "type": "object",
        "properties": {name: case[0] for name, (case, _, _) in members.items()},
        "required": [name for name, (_, required, _) in members.items() if required],
        "additionalProperties": False,
    }
    there = {name: case[1] for name, (case, need, have) in members.items() if need or have}
    return schema, there


CASES = st.recursive(
    SCALARS,
    lambda inner: (
        inner.flatmap(array_of)
        | st.dictionaries(NAMES, st.tuples(inner, st.booleans(), st.booleans()), max_size=4).map(
            object_of
        )
        | st.tuples(inner, inner).map(lambda two: ({"anyOf": [two[0][0], two[1][0]]}, two[1][1]))
    ),
    max_leaves=6,
)


@given(CASES)
@settings(max_examples=200)
def test_a_value_of_a_schema_passes_its_grammar(case: Case) -> None:
    schema, value = case
    assert accepts(schema, json.dumps(value, ensure_ascii=False))


@given(st.text(max_size=5), st.characters(max_codepoint=0x1F), st.text(max_size=5))
def test_no_string_has_a_raw_control_character(before: str, control: str, after: str) -> None:
    text = json.dumps(before, ensure_ascii=False)[:-1] + control + json.dumps(after)[1:]
    for schema in (STRING, {"minLength": 0}, {"pattern": r"^[\s\S]*$"}, {"pattern": "^[^x]*$"}, {}):
        assert not accepts(schema, text)
