"""Regular expressions as grammars of what stands between a JSON string's quotation marks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import NoReturn

from airloom.errors import InvalidTaskError
from device_agent.engine.grammars.gbnf import MAX_REPETITIONS, characters

MAX_PATTERN_ELEMENTS = 4096
"""Of a regular expression with all its repetitions written out."""
_MAX_NESTED = 1000
_LAST_CODE_POINT = 0x10FFFF

Ranges = list[tuple[int, int]]
"""Code points, first and last of each range."""

_TIMES = re.compile(r"\{([0-9]{1,6})(?:(,)([0-9]{1,6})?)?\}")
_HEX = re.compile(r"x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})")
_CONTROLS = {"t": "\t", "n": "\n", "v": "\v", "f": "\f", "r": "\r", "0": "\0"}
_SPACES: Ranges = [
    *((0x09, 0x0D), (0x20, 0x20), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A)),
    *((0x2028, 0x2029), (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF)),
]
_CLASSES: dict[str, Ranges] = {
    "d": [(0x30, 0x39)],
    "w": [(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)],
    "s": _SPACES,
}
_ALL_BUT_LINE_ENDS: Ranges = [
    *((0x00, 0x09), (0x0B, 0x0C), (0x0E, 0x2027), (0x202A, _LAST_CODE_POINT)),
]
_ESCAPED: Ranges = [(0x00, 0x1F), (0x22, 0x22), (0x5C, 0x5C)]
"""What stands in a JSON string as an escape only."""
_SHORT_ESCAPES = {0x08: "b", 0x09: "t", 0x0A: "n", 0x0C: "f", 0x0D: "r", 0x22: '"', 0x5C: "\\\\"}
_LONG_ESCAPES = [code for code in range(0x20) if code not in _SHORT_ESCAPES]


def from_pattern(pattern: object, path: str) -> str:
    """Write a regular expression (`^…$`, ECMA-262 without assertions and back references) as GBNF.

    Raises:
        InvalidTaskError: it is none, uses what cannot be written so, or has too many elements with
            its repetitions written out; says where.
    """
    if not isinstance(pattern, str):
        raise InvalidTaskError(f"the JSON schema at {path} is {pattern!r:.80}: a text is needed")
    if len(pattern) < 2 or pattern[0] != "^" or pattern[-1] != "$":
        raise InvalidTaskError(
            f"the JSON schema at {path} is {pattern!r:.80}, which may begin or end anywhere: only a "
            "pattern of the whole text can be followed, which begins with ^ and ends with $"
        )
    return _Reader(pattern, path).read()


def _others(ranges: Ranges) -> Ranges:
    """All code points that are not in these ranges."""
    bounds = characters(ranges, negated=True).bounds
    ends = [end - 1 for end in bounds[1::2]]
    pairs = zip_longest(bounds[::2], ends, fillvalue=_LAST_CODE_POINT)
    return [(first, last) for first, last in pairs if first <= last]


def _json_characters(ranges: Ranges) -> str:
    """One character of these, as JSON writes it in a string; empty where there is none."""
    within = characters(ranges)
    alternatives = []
    if plain := _others(_others(ranges) + _ESCAPED):
        alternatives.append(f"[{''.join(_range(*pair) for pair in plain)}]")
    if short := "".join(mark for code, mark in _SHORT_ESCAPES.items() if code in within):
        alternatives.append(f'"\\\\" [{short}]')
    long = [code for code in _LONG_ESCAPES if code in within]
    if len(long) == len(_LONG_ESCAPES):
        alternatives.append(r'"\\u00" ( "0" [0-7bBeEfF] | "1" [0-9a-fA-F] )')
    else:
        alternatives.extend(f'"\\\\u{code:04x}"' for code in long)
    if len(alternatives) > 1 or len(short) > 0:
        return f"( {' | '.join(alternatives)} )"
    return "".join(alternatives)


def _range(first: int, last: int) -> str:
    return _mark(first) if first == last else f"{_mark(first)}-{_mark(last)}"


def _mark(code: int) -> str:
    if chr(code).isascii() and chr(code).isalnum():
        return chr(code)
    return f"\\u{code:04X}" if code <= 0xFFFF else f"\\U{code:08X}"


@dataclass
class _Group:
    """What is in parentheses, or the whole pattern, as far as it is read."""

    elements: int = 0
    """With repetitions written out, and of all alternatives."""
    last: int = 0
    """Of them, those that a repetition would repeat; 0 where there is nothing to repeat."""
    last_may_be_empty: bool = True
    before_may_be_empty: bool = True
    """What is before the last, in the same alternative."""
    other_may_be_empty: bool = False
    """One of the alternatives before."""

    @property
    def may_be_empty(self) -> bool:
        return (self.before_may_be_empty and self.last_may_be_empty) or self.other_may_be_empty


class _Reader:
    """Goes through a regular expression once; parentheses are counted, not recursed into."""

    def __init__(self, pattern: str, path: str) -> None:
        self._text, self._path = pattern[:-1], path
        self._at = 1
        self._written: list[str] = []
        self._open = [_Group()]

    def _refuse(self, problem: str) -> NoReturn:
        raise InvalidTaskError(f"the JSON schema at {self._path}, character {self._at}: {problem}")

    @property
    def _next(self) -> str:
        return self._text[self._at : self._at + 1]

    def read(self) -> str:
        while mark := self._next:
            if mark == "(":
                self._begin_group()
            elif mark == ")" and len(self._open) > 1:
                self._at += 1
                group = self._open.pop()
                # A group without elements can be repeated too.
                self._put(")", max(group.elements, 1), may_be_empty=group.may_be_empty)
            elif mark in "*+?{":
                self._repeat()
            elif mark == "|" and len(self._open) > 1:
                self._at += 1
                group = self._open[-1]
                self._open[-1] = _Group(group.elements, other_may_be_empty=group.may_be_empty)
                self._written.append('| ""')
            else:
                self._put(self._element(mark), 1, may_be_empty=False)
        if len(self._open) > 1:
            raise InvalidTaskError(f"the JSON schema at {self._path} has a '(' without a ')'")
        return " ".join(self._written) or '""'

    def _put(self, text: str, elements: int, *, may_be_empty: bool) -> None:
        self._written.append(text)
        group = self._open[-1]
        group.before_may_be_empty &= group.last_may_be_empty
        group.last, group.last_may_be_empty = elements, may_be_empty
        self._count(elements)

    def _count(self, elements: int) -> None:
        self._open[-1].elements += elements
        if sum(group.elements for group in self._open) > MAX_PATTERN_ELEMENTS:
            raise InvalidTaskError(
                f"the JSON schema at {self._path} has more than {MAX_PATTERN_ELEMENTS:,} elements "
                "with its repetitions written out"
            )

    def _begin_group(self) -> None:
        self._at += 1
        if self._text.startswith("?:", self._at):
            self._at += 2
        elif self._next == "?":
            self._refuse("'(?' cannot be followed; groups are written (…) or (?:…)")
        if len(self._open) > _MAX_NESTED:
            self._refuse(f"nested too deeply: more than {_MAX_NESTED:,} parentheses in one another")
        self._open.append(_Group())
        self._written.append('( ""')

    def _repeat(self) -> None:
        mark, group = self._next, self._open[-1]
        if not group.last:
            self._refuse(f"{mark!r} has nothing to repeat; write \\{mark} for the character")
        least, most = self._times()
        if most is None and group.last_may_be_empty:
            self._refuse(
                f"{mark!r} repeats without end what may be empty, which cannot be followed; (a|b)* can "
                "be, in place of (a?b?)*"
            )
        if self._next == "?":
            # Which of the possible ways is preferred makes no difference to the texts that match.
            self._at += 1
        self._count(group.last * (max(least, most or 0, 1) - 1))
        group.last = 0
        group.last_may_be_empty |= least == 0

    def _times(self) -> tuple[int, int | None]:
        """Read a repetition: at least and at most how often."""
        match = _TIMES.match(self._text, self._at)
        text = match.group() if match else self._next
        if match:
            least = int(match.group(1))
            most = int(match.group(3)) if match.group(3) else None if match.group(2) else least
            if max(least, most or 0) > MAX_REPETITIONS or (most is not None and most < least):
                self._refuse(
                    f"{text}: repetitions go from 0 to {MAX_REPETITIONS:,}, the lesser first"
                )
        elif text == "{":
            self._refuse("'{' has no counterpart; write \\{ for the character")
        else:
            least, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}[text]
        self._at += len(text)
        self._written.append(text)
        return least, most

    def _element(self, mark: str) -> str:
        if mark == ".":
            self._at += 1
            return _json_characters(_ALL_BUT_LINE_ENDS)
        if mark == "[":
            ranges = self._set()
        elif mark == "\\":
            ranges = self._escape(also="^$.*+?()[]{}|/\\-\"'")
        elif mark == "|":
            self._refuse(
                "'|' applies to all from the ^ to the $: write ^(a|b)$ for either whole text"
            )
        elif mark in "^$":
            self._refuse(f"{mark!r} can stand at the pattern's edge only; write \\{mark} for it")
        elif mark in ")]}":
            self._refuse(f"{mark!r} has no counterpart; write \\{mark} for the character")
        else:
            self._at += 1
            ranges = [(ord(mark), ord(mark))]
        if any(0xD800 <= first == last <= 0xDFFF for first, last in ranges):
            self._refuse("half of a surrogate pair is no character; write the character itself")
        return _json_characters(ranges) or self._refuse("no character is in this set")

    def _set(self) -> Ranges:
        self._at += 1
        negated = self._next == "^"
        self._at += negated
        ranges: Ranges = []
        while (mark := self._next) != "]":
            if not mark:
                self._refuse("'[' has no counterpart; write \\[ for the character")
            first = self._member()
            if self._next == "-" and self._text[self._at + 1 : self._at + 2] not in ("]", ""):
                self._at += 1
                last = self._member()
                if not _are_one(first) or not _are_one(last) or first > last:
                    self._refuse("a range goes from one character up to another")
                first = [(first[0][0], last[0][0])]
            ranges += first
        self._at += 1
        return _others(ranges) if negated else ranges

    def _member(self) -> Ranges:
        if self._next == "\\":
            return self._escape(also="^$.*+?()[]{}|/\\-\"'#&,:;<=>@_~!% ")
        code = ord(self._next)
        self._at += 1
        return [(code, code)]

    def _escape(self, *, also: str) -> Ranges:
        kind = self._text[self._at + 1 : self._at + 2]
        if match := _HEX.match(self._text, self._at + 1):
            code = int(match.group(1) or match.group(2), 16)
            self._at = match.end()
            return [(code, code)]
        if not kind or (
            kind.lower() not in _CLASSES and kind not in _CONTROLS and kind not in also
        ):
            self._refuse(
                f"the escape \\{kind} cannot be followed; these can: \\d \\w \\s \\D \\W \\S \\t \\n "
                "\\v \\f \\r \\0 \\xHH \\uHHHH, and \\ before a mark"
            )
        self._at += 2
        if kind.lower() in _CLASSES:
            ranges = _CLASSES[kind.lower()]
            return _others(ranges) if kind.isupper() else list(ranges)
        code = ord(_CONTROLS.get(kind, kind))
        return [(code, code)]


def _are_one(ranges: Sequence[tuple[int, int]]) -> bool:
    return len(ranges) == 1 and ranges[0][0] == ranges[0][1]
