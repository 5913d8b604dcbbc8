"""Grammars: the same tokens as llama.cpp's own, and bounds on what they may cost."""

from __future__ import annotations

import asyncio
import ctypes
import random
from collections.abc import Iterator
from typing import Any

import llama_cpp
import numpy as np
import pytest
from engines import MODELS, MakeEngine
from hypothesis import given, settings
from hypothesis import strategies as st

from airloom.errors import InvalidTaskError
from device_agent.engine import GenerateRequest, Model, Sampling
from device_agent.engine.grammars import grammar as grammar_module
from device_agent.engine.grammars import states as grammar_states
from device_agent.engine.grammars.gbnf import MAX_DEPTH, characters, parse
from device_agent.engine.grammars.grammar import Grammar
from device_agent.engine.grammars.json_schema import any_json, from_json_schema
from device_agent.engine.requests import JsonSchema

ARITHMETIC = r"""
# a comment
root  ::= (expr "=" ws term "\n")+
expr  ::= term ([-+*/] term)*
term  ::= ident | num | "(" ws expr ")" ws
ident ::= [a-z] [a-z0-9_]* ws
num   ::= [0-9]{1,3} ws
ws    ::= [ \t\n]*
"""
GRAMMARS = [
    ARITHMETIC,
    any_json(),
    'root ::= "a"{2,4} [^a-y]+ ("x" | "y"?){3} .',
    'root ::= "a" b | b\nb ::= ("c" (\n "d" | "é" # more\n ))* "\\u2713"',
    'root ::= [\\x41-\\x5A-]{0,5} "" ("q"{0} "r")? [^a]',
    from_json_schema(
        {
            "type": "object",
            "properties": {
                "a": {"type": "string", "maxLength": 12},
                "b": {"enum": ["x", 1, None]},
                "c": {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 3},
                "d": {"type": "string", "pattern": "^(ab?){2,3}[x-z]$"},
            },
            "required": ["a", "c"],
            "additionalProperties": False,
        }
    ),
]


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    opened = Model(MODELS["mathematics"])
    yield opened
    opened.close()


class Native:
    """llama.cpp's own grammar, as the standard of comparison."""

    def __init__(self, model: Model, text: str) -> None:
        self._sampler = llama_cpp.llama_sampler_init_grammar(
            model.vocabulary, text.encode(), b"root"
        )
        assert self._sampler
        self._size = model.vocabulary_size

    def allowed(self) -> set[int]:
        data = (llama_cpp.llama_token_data * self._size)()
        for token in range(self._size):
            data[token].id = token
        array = llama_cpp.llama_token_data_array(
            data=data, size=self._size, selected=-1, sorted=False
        )
        llama_cpp.llama_sampler_apply(self._sampler, ctypes.byref(array))
        return {token for token in range(self._size) if np.isfinite(data[token].logit)}

    def accept(self, token: int) -> None:
        llama_cpp.llama_sampler_accept(self._sampler, token)

    def close(self) -> None:
        llama_cpp.llama_sampler_free(self._sampler)


def is_text(data: bytes) -> bool:
    """Whether bytes are UTF-8, or the beginning of it; llama.cpp takes others for it too."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    return True


@pytest.mark.parametrize("text", GRAMMARS)
def test_the_same_tokens_are_allowed_as_by_llama_cpp(text: str, model: Model) -> None:
    # A control token has no text here, so that no grammar can ask for it.
    shown = {t for t in range(model.vocabulary_size) if model.pieces[t] or t in model.end_tokens}
    for seed in range(4):
        choose = random.Random(seed)
        ours, theirs = Grammar(model, text), Native(model, text)
        for _ in range(40):
            allowed = {token for token in shown if ours.allows(token)}
            also = theirs.allowed() & shown - allowed
            assert allowed <= theirs.allowed()
            assert not any(is_text(ours._pending + model.pieces[token]) for token in also)
            going_on = sorted(allowed - model.end_tokens)
            if not going_on:
                break
            token = choose.choice(going_on)
            ours.accept(token)
            theirs.accept(token)
        theirs.close()


@pytest.mark.parametrize("text", [*GRAMMARS, 'root ::= !<[5]> "a"* (<[7]> | "b")+'])
def test_all_tokens_together_are_judged_as_each_by_itself(text: str, model: Model) -> None:
    rng = np.random.default_rng(3)
    ours = Grammar(model, text)
    for _ in range(25):
        logits = rng.normal(0, 4, model.vocabulary_size).astype(np.float32)
        allowed = [token for token in range(len(logits)) if ours.allows(token)]
        restricted = ours.restrict(logits)
        assert np.flatnonzero(np.isfinite(restricted)).tolist() == allowed
        np.testing.assert_array_equal(restricted[allowed], logits[allowed])
        following = [token for token in allowed if token not in model.end_tokens]
        if not following:
            break
        ours.accept(max(following, key=lambda token: logits[token]))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("root ::= " + "(" * 60_000 + '"a"' + ")" * 60_000, f"more than {MAX_DEPTH:,} parentheses"),
        ("root ::= " + '"a"' * 50_000, "bytes; at most 131,072|characters"),
        ("root ::=" + ' "ten letters"{2000}' * 4, "more than 65,536 elements"),
        ("root ::= [^]", "a set without characters"),
        ('root ::= "a"{5,2}', "repetitions go from 0 to 2,000, the lesser one first"),
        ('root ::= "a"{9999999}', "repetitions go from 0"),
        ('root ::= "a"{99999999999999999999}', "a repetition should stand here"),
        ('root ::= root "a" | "b"', "'root' begins with itself"),
        ('root ::= a root "x" | "y"\na ::= b\nb ::= ""', "'root' begins with itself"),
        ('root ::= (("a"?)*)*', "begins with itself"),
        ("root ::= other", "no rule 'other'"),
        ('other ::= "a"', "no rule `root`"),
        ("root ::= *", "nothing to repeat"),
        ('root ::= "a', "the text ends within a literal"),
        ("root ::= [a", "the text ends within a literal or a set"),
        ('root ::= ("a"', r"`\)` should stand here"),
        ('root ::= "\\q"', "no escape that GBNF knows"),
        ('root ::= "\\u12"', "no escape that GBNF knows"),
        ("root ::= <nothing of that name>", "which is not a token"),
        ("root", "`::=` should stand here"),
        ("\x00", "a rule's name should stand here"),
        # 30 rules, each twice at the beginning of the one before: llama.cpp looks at 2^30.
        (
            "root ::= r0\n"
            + "\n".join(f'r{n} ::= r{n + 1} "x" | r{n + 1} "y"' for n in range(30))
            + '\nr30 ::= r0 | "z"',
            "begins with itself",
        ),
    ],
)
async def test_a_grammar_that_is_none_or_too_large_is_refused_and_the_engine_goes_on(
    text: str, problem: str, make_engine: MakeEngine
) -> None:
    engine = make_engine()
    with pytest.raises(InvalidTaskError, match=problem):
        await engine.start(GenerateRequest("1+1", grammar=text))
    assert (await engine.generate(GenerateRequest("1+1=", max_tokens=3))).tokens


@pytest.mark.parametrize("depth", [8, 30])
def test_ways_that_double_with_each_rule_are_bounded(depth: int, model: Model) -> None:
    rules = [f'r{n} ::= r{n + 1} "x" | r{n + 1} "y"' for n in range(depth)]
    text = "\n".join(["root ::= r0", *rules, f'r{depth} ::= "z"'])
    if depth == 8:
        (token,) = model.tokenize("z", add_special=False)
        assert Grammar(model, text).allows(token)
        return
    # llama.cpp looks at 2^30 of them before the first token.
    with pytest.raises(InvalidTaskError, match="too ambiguous"):
        Grammar(model, text)


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        (
            {"pattern": "^((a?b?c?){200}){10}$"},
            r"at \$\.properties\.x\.pattern has more than 4,096",
        ),
        ({"pattern": "^((((a{9}){9}){9}){9}){9}$"}, "more than 4,096 elements"),
        ({"pattern": "^a]$"}, "']' has no counterpart"),
        ({"pattern": "^a}$"}, "'}' has no counterpart"),
        ({"pattern": "^(a$"}, r"a '\(' without a '\)'"),
        ({"pattern": "^" + "(" * 2000 + "a" + ")" * 2000 + "$"}, "nested too deeply"),
        ({"pattern": 7}, "a text is needed"),
        ({"type": "string", "minLength": 9, "maxLength": 3}, "'minLength' 9 above 'maxLength' 3"),
        ({"enum": ["a" * 70_000]}, "bytes; at most 65,536"),
    ],
)
async def test_a_schema_that_would_grow_too_large_is_refused_by_its_place(
    schema: dict[str, Any], problem: str, make_engine: MakeEngine
) -> None:
    engine = make_engine()
    whole = {"type": "object", "properties": {"x": {"type": "string", **schema}}}
    with pytest.raises(InvalidTaskError, match=problem):
        await engine.start(GenerateRequest("1+1", grammar=JsonSchema(whole)))


AMBIGUOUS = 'root ::= (a | b | c)* "!"\na ::= [0-9 ]+\nb ::= [0-9 ]\nc ::= [0-9 ][0-9 ]'


async def test_a_step_over_its_time_ends_that_request_alone(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine()
    prompt = engine.model.user_prompt("What is 12+25?")
    other = await engine.start(GenerateRequest(prompt))
    # No time at all is less than any step takes.
    monkeypatch.setattr(grammar_module, "MEAN_LIMIT_S", 0.0)
    sequence = await engine.start(GenerateRequest(prompt, grammar=AMBIGUOUS, max_tokens=50))
    monkeypatch.setattr(grammar_module, "GRACE_S", 0.0)
    with pytest.raises(InvalidTaskError, match="following the grammar takes too long"):
        await sequence.completion()
    assert (await other.completion()).text.endswith("37")


async def test_too_many_ways_at_once_end_that_request_alone(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine()
    prompt = engine.model.user_prompt("What is 12+25?")
    request = GenerateRequest(prompt, grammar=AMBIGUOUS, max_tokens=50)
    monkeypatch.setattr(grammar_states, "MAX_STACKS", 4)
    failed, other = await asyncio.gather(
        engine.generate(request), engine.generate(GenerateRequest(prompt)), return_exceptions=True
    )
    assert isinstance(failed, InvalidTaskError)
    assert "too ambiguous" in str(failed)
    assert not isinstance(other, BaseException)
    assert other.text.endswith("37")


def test_tokens_of_many_ways_cost_no_more_than_their_length(model: Model) -> None:
    """What llama.cpp looks at in 3^n ways for n characters: here each character once."""
    ours = Grammar(model, AMBIGUOUS)
    digit = model.tokenize("7", add_special=False)[0]
    for _ in range(64):
        ours.accept(digit)
    assert len(ours._states) < 10


def test_sets_of_characters() -> None:
    digits = characters([(0x30, 0x35), (0x33, 0x39)])
    assert [0x2F in digits, 0x30 in digits, 0x39 in digits, 0x3A in digits] == [0, 1, 1, 0]
    others = characters([(0x30, 0x39)], negated=True)
    assert [0 in others, 0x2F in others, 0x35 in others, 0x10FFFF in others] == [1, 1, 0, 1]
    assert digits.meets(0, 0x30)
    assert not digits.meets(0, 0x2F)
    assert not digits.meets(0x3A, 0x10FFFF)


@given(st.text('abr-:=|()[]{}*+?."\\\n#<>!0123456789 ', max_size=60))
@settings(max_examples=500)
def test_any_text_is_a_grammar_or_refused(text: str) -> None:
    def no_token(_: str) -> int:
        raise InvalidTaskError("not a token")

    try:
        rules = parse(f"root ::= {text}", no_token)
    except InvalidTaskError:
        return
    assert all(alternatives for alternatives in rules.rules)


async def test_characters_of_several_bytes_are_followed_byte_by_byte(
    make_engine: MakeEngine,
) -> None:
    engine = make_engine()
    request = GenerateRequest(
        "x", grammar='root ::= "é✓" [😀-😂]', sampling=Sampling(temperature=1.0), max_tokens=30
    )
    text = (await engine.generate(request)).text
    assert text[:2] == "é✓"
    assert text[2:] in "😀😁😂"
