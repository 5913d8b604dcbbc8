"""GBNF, llama.cpp's notation of grammars: parsed here, so that its size is bounded before it grows.

A rule is a list of alternatives, an alternative a list of elements. Repetitions are written out:
`x{2,4}` becomes `x x r1`, with `r1 ::= x r2 |` and `r2 ::= x |`.
"""

# Why no library: llguidance 1.9.1 was measured in place of this, and is not used because
# - its reading of GBNF changes what a grammar allows, without a word: a rule of characters takes all it
#   can (`root ::= w "x"` with `w ::= [a-z]+` never ends), `.` is no new line, and `[a&&b]` and `[+--]`
#   are operations on sets; `\u00e9`, `"\["`, `[\-a]`, `<token>` and a rule named `start` are refused;
# - its limits do not bound everything: with each at 1,000, 29 patterns under `allOf` (time and memory
#   double with each; 21 take 4 s and 460 MiB) and the pattern "^a{1000000000}$" end the process when
#   memory ends, and {"type": "integer", "multipleOf": 999983} takes 10 s and 410 MiB.
# Its masks are much quicker (JSON, 151,601 tokens: 0.03 ms against 22 ms here), and it enforces more of
# JSON Schema: it is worth another look when schemas can be bounded before they reach it.

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from airloom.errors import InvalidTaskError
from device_agent.engine.limits import MAX_GRAMMAR_BYTES

MAX_ELEMENTS = 1 << 16
"""Of all rules together, with repetitions written out."""
MAX_DEPTH = 4096
"""Of parentheses in one another; a text of up to 2,000 characters takes as many."""
MAX_REPETITIONS = 2000
_LAST_CODE_POINT = 0x10FFFF


@dataclass(frozen=True, slots=True)
class Characters:
    """One character of a set."""

    bounds: tuple[int, ...]
    """Where the set begins, ends, begins again, …: a code point is in it after an odd number."""

    def __contains__(self, code_point: int) -> bool:
        return bisect_right(self.bounds, code_point) % 2 == 1

    def meets(self, first: int, last: int) -> bool:
        """Whether any code point of a range is in the set."""
        at = bisect_right(self.bounds, first)
        return at % 2 == 1 or (at < len(self.bounds) and self.bounds[at] <= last)

    def meets_any(self, first: NDArray[np.int32], last: NDArray[np.int32]) -> NDArray[np.bool_]:
        """As `meets`, for many ranges."""
        bounds = np.array([*self.bounds, np.iinfo(np.int32).max], np.int32)
        at = np.searchsorted(bounds[:-1], first, side="right")
        inside: NDArray[np.bool_] = (at % 2 == 1) | (bounds[at] <= last)
        return inside


@dataclass(frozen=True, slots=True)
class TokenElement:
    """One token of the vocabulary, or any but that one."""

    token: int
    negated: bool


@dataclass(frozen=True, slots=True)
class Reference:
    """Another rule, by its number."""

    rule: int


Element = Characters | TokenElement | Reference
Alternatives = list[list[Element]]


@dataclass(frozen=True, slots=True)
class Rules:
    """A grammar whose rules are all there, and none of which begins with itself."""

    rules: Sequence[Alternatives]
    root: int


def characters(ranges: Sequence[tuple[int, int]], *, negated: bool = False) -> Characters:
    """The set of all code points in these ranges, or of all others."""
    bounds: list[int] = []
    for first, last in sorted(ranges):
        if last < first:
            continue
        if bounds and first <= bounds[-1]:
            bounds[-1] = max(bounds[-1], last + 1)
        else:
            bounds += [first, last + 1]
    if negated:
        bounds = bounds[1:] if bounds and bounds[0] == 0 else [0, *bounds]
    return Characters(tuple(bounds))


ANY = characters([(0, _LAST_CODE_POINT)])

TokenOf = Callable[[str], int]
"""Which token a text like `<think>` is; raises InvalidTaskError where it is none."""


def parse(text: str, token_of: TokenOf) -> Rules:
    """Read a grammar.

    Raises:
        InvalidTaskError: it is none, has no `root`, begins a rule with itself, or is too large.
    """
    if len(text.encode()) > MAX_GRAMMAR_BYTES:
        raise InvalidTaskError(
            f"the grammar has {len(text.encode()):,} bytes; at most {MAX_GRAMMAR_BYTES:,} are taken"
        )
    parser = _Parser(text, token_of)
    parser.read_all()
    missing = [name for name, number in parser.numbers.items() if number not in parser.rules]
    if missing:
        raise InvalidTaskError(f"the grammar has no rule {missing[0]!r}, which another one names")
    if "root" not in parser.numbers:
        raise InvalidTaskError("not a grammar (GBNF with a rule `root`): it has no rule `root`")
    rules = [parser.rules[number] for number in range(parser.count)]
    recursive = _left_recursive(rules)
    if recursive is not None:
        names = {number: name for name, number in parser.numbers.items()}
        raise InvalidTaskError(
            f"the grammar's rule {names.get(recursive, 'in parentheses')!r} begins with itself "
            "(left recursion), which cannot be followed"
        )
    return Rules(rules, parser.numbers["root"])


@dataclass
class _Open:
    """A rule, or a part of one in parentheses, that is being read."""

    number: int
    alternatives: Alternatives = field(default_factory=lambda: [[]])
    last: int | None = None
    """Where the element begins in the current alternative that a repetition would repeat."""

    @property
    def sequence(self) -> list[Element]:
        return self.alternatives[-1]


_NAME = re.compile(r"[A-Za-z0-9-]+")
_SPACE = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_SPACE_AND_LINES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_TOKEN = re.compile(r"!?<(?:\[([0-9]{1,9})\]|[^>]*)>")
_REPETITION = re.compile(r"\{\s*([0-9]{1,9})\s*(?:(,)\s*([0-9]{1,9})?\s*)?\}")
_ESCAPES = {"t": "\t", "r": "\r", "n": "\n", **{mark: mark for mark in '\\"[]-'}}
_HEX_DIGITS = {"x": 2, "u": 4, "U": 8}
_HEX = re.compile(r"[0-9A-Fa-f]+")


class _Parser:
    def __init__(self, text: str, token_of: TokenOf) -> None:
        self._text, self._token_of = text, token_of
        self._at = 0
        self._elements = 0
        self.numbers: dict[str, int] = {}
        self.rules: dict[int, Alternatives] = {}
        self.count = 0

    def _error(self, problem: str) -> InvalidTaskError:
        line = self._text.count("\n", 0, self._at) + 1
        near = self._text[self._at : self._at + 20]
        return InvalidTaskError(
            f"not a grammar (GBNF with a rule `root`): line {line}, near {near!r}: {problem}"
        )

    @property
    def _next(self) -> str:
        return self._text[self._at] if self._at < len(self._text) else ""

    def _skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        if match is None:
            return ""
        self._at = match.end()
        return match.group()

    def _number(self, name: str) -> int:
        if name not in self.numbers:
            self.numbers[name] = self._new_rule()
        return self.numbers[name]

    def _new_rule(self) -> int:
        self.count += 1
        return self.count - 1

    def _count(self, elements: int) -> None:
        self._elements += elements
        if self._elements > MAX_ELEMENTS:
            raise self._error(
                f"with its repetitions written out, the grammar has more than {MAX_ELEMENTS:,} "
                "elements"
            )

    def read_all(self) -> None:
        self._skip(_SPACE_AND_LINES)
        while self._next:
            name = self._skip(_NAME)
            if not name:
                raise self._error("a rule's name should stand here")
            self._skip(_SPACE)
            if not self._text.startswith("::=", self._at):
                raise self._error("`::=` should stand here")
            self._at += 3
            self._skip(_SPACE_AND_LINES)
            self._read_rule(self._number(name))
            if self._next not in ("", "\r", "\n"):
                raise self._error("the rule should end here")
            self._skip(_SPACE_AND_LINES)

    def _read_rule(self, number: int) -> None:
        """Read up to the rule's end; parentheses are kept on a list, not on Python's stack."""
        nest = [_Open(number)]
        while nest:
            opened = nest[-1]
            mark = self._next
            if mark == "(":
                self._at += 1
                if len(nest) > MAX_DEPTH:
                    raise self._error(f"more than {MAX_DEPTH:,} parentheses in one another")
                nest.append(_Open(self._new_rule()))
            elif mark == ")" and len(nest) > 1:
                self._at += 1
                nest.pop()
                self._close(opened)
                self._put(nest[-1], [Reference(opened.number)])
            elif mark == "|":
                self._at += 1
                opened.alternatives.append([])
                opened.last = None
                self._skip(_SPACE_AND_LINES)
            elif mark and mark in "*+?{":
                self._repeat(opened, *self._times(mark))
            elif (elements := self._read_elements()) is not None:
                self._put(opened, elements)
            else:
                if len(nest) > 1:
                    raise self._error("`)` should stand here")
                self._close(opened)
                return
            self._skip(_SPACE_AND_LINES if len(nest) > 1 else _SPACE)

    def _close(self, opened: _Open) -> None:
        self.rules[opened.number] = opened.alternatives
        self._count(len(opened.alternatives))

    def _put(self, opened: _Open, elements: list[Element]) -> None:
        self._count(len(elements))
        opened.last = len(opened.sequence)
        opened.sequence.extend(elements)

    def _read_elements(self) -> list[Element] | None:
        """What stands here, None where the sequence ends."""
        mark = self._next
        if mark == '"':
            return self._literal()
        if mark == "[":
            return [self._set()]
        if mark == ".":
            self._at += 1
            return [ANY]
        if mark and mark in "<!":
            return [self._token()]
        name = self._skip(_NAME)
        return [Reference(self._number(name))] if name else None

    def _literal(self) -> list[Element]:
        self._at += 1
        elements: list[Element] = []
        while self._next != '"':
            code_point = self._character()
            elements.append(characters([(code_point, code_point)]))
        self._at += 1
        return elements

    def _set(self) -> Characters:
        self._at += 1
        negated = self._next == "^"
        self._at += negated
        ranges: list[tuple[int, int]] = []
        while self._next != "]":
            first = last = self._character()
            if self._next == "-" and self._text[self._at + 1 : self._at + 2] != "]":
                self._at += 1
                last = self._character()
            ranges.append((first, last))
        if not ranges:
            raise self._error("a set without characters")
        self._at += 1
        return characters(ranges, negated=negated)

    def _character(self) -> int:
        mark = self._next
        if not mark:
            raise self._error("the text ends within a literal or a set")
        self._at += 1
        if mark != "\\":
            return ord(mark)
        kind = self._next
        self._at += 1
        if kind in _ESCAPES and kind:
            return ord(_ESCAPES[kind])
        if kind in _HEX_DIGITS and kind:
            digits = self._text[self._at : self._at + _HEX_DIGITS[kind]]
            if len(digits) == _HEX_DIGITS[kind] and _HEX.fullmatch(digits):
                self._at += len(digits)
                return min(int(digits, 16), _LAST_CODE_POINT)
        self._at -= 2
        raise self._error("no escape that GBNF knows")

    def _token(self) -> TokenElement:
        match = _TOKEN.match(self._text, self._at)
        if match is None:
            raise self._error("a token should stand here: <[number]> or <text>")
        negated = match.group().startswith("!")
        number = match.group(1)
        token = self._token_of(match.group()[negated:]) if number is None else int(number)
        self._at = match.end()
        return TokenElement(token, negated)

    def _times(self, mark: str) -> tuple[int, int | None]:
        if mark != "{":
            self._at += 1
            return {"*": (0, None), "+": (1, None), "?": (0, 1)}[mark]
        match = _REPETITION.match(self._text, self._at)
        if match is None:
            raise self._error("a repetition should stand here: {m}, {m,} or {m,n}")
        least = int(match.group(1))
        most = least
        if match.group(2):
            most = -1 if match.group(3) is None else int(match.group(3))
        if max(least, most) > MAX_REPETITIONS or 0 <= most < least:
            raise self._error(f"repetitions go from 0 to {MAX_REPETITIONS:,}, the lesser one first")
        self._at = match.end()
        return least, None if most < 0 else most

    def _repeat(self, opened: _Open, least: int, most: int | None) -> None:
        if opened.last is None:
            raise self._error("there is nothing to repeat")
        sequence = opened.sequence
        repeated = sequence[opened.last :]
        optional = 1 if most is None else most - least
        self._count((least + optional) * (len(repeated) + 2))
        del sequence[opened.last :]
        sequence.extend(repeated * least)
        following: Reference | None = None
        for _ in range(optional):
            rule = Reference(self._new_rule())
            rest = [rule] if most is None else [] if following is None else [following]
            self.rules[rule.rule] = [[*repeated, *rest], []]
            following = rule
        if following is not None:
            sequence.append(following)


def _left_recursive(rules: Sequence[Alternatives]) -> int | None:
    """A rule that can begin with itself, if there is one."""
    empty = _may_be_empty(rules)
    begins: list[list[int]] = []
    for alternatives in rules:
        first: set[int] = set()
        for alternative in alternatives:
            for element in alternative:
                if not isinstance(element, Reference):
                    break
                first.add(element.rule)
                if not empty[element.rule]:
                    break
        begins.append(list(first))
    new, open_, done = 0, 1, 2
    state = [new] * len(rules)
    for start in range(len(rules)):
        way = [(start, 0)] if state[start] == new else []
        while way:
            rule, at = way.pop()
            state[rule] = open_
            if at == len(begins[rule]):
                state[rule] = done
                continue
            way.append((rule, at + 1))
            if state[begins[rule][at]] == open_:
                return begins[rule][at]
            if state[begins[rule][at]] == new:
                way.append((begins[rule][at], 0))
    return None


def _may_be_empty(rules: Sequence[Alternatives]) -> list[bool]:
    """For each rule whether it can stand for nothing."""
    empty = [False] * len(rules)
    # Which alternatives consist of references only, and how many of those are not known empty.
    waiting: list[list[tuple[int, int]]] = [[] for _ in rules]
    left: dict[tuple[int, int], int] = {}
    found: list[int] = []
    for number, alternatives in enumerate(rules):
        for index, alternative in enumerate(alternatives):
            if not all(isinstance(element, Reference) for element in alternative):
                continue
            left[number, index] = len(alternative)
            if not alternative:
                found.append(number)
            for element in alternative:
                assert isinstance(element, Reference)
                waiting[element.rule].append((number, index))
    while found:
        number = found.pop()
        if empty[number]:
            continue
        empty[number] = True
        for place in waiting[number]:
            left[place] -= 1
            if not left[place]:
                found.append(place[0])
    return empty
