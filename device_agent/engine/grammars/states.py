"""Where a grammar stands: all ways at once in which the text so far can have been made.

Each way is a stack: the element that comes next, and what follows it. All stacks together are a
state; where a state and a character lead is remembered.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from airloom.errors import InvalidTaskError
from device_agent.engine.grammars.gbnf import Characters, Element, Reference, Rules, TokenElement

MAX_STACKS = 2048
"""Ways at once in which a text can have been made."""
MAX_VISITS = 20_000
"""Elements looked at for one character."""
MAX_REMEMBERED = 1 << 16
"""Stacks of one generation; transitions, which are forgotten beyond that."""

DEAD = -1
"""The state that nothing leads on from."""
_EMPTY = 0
"""The stack of a text that is whole."""


class _Node(NamedTuple):
    """A stack: what comes next (alternative and place in it), and the stack below."""

    alternative: int
    place: int
    below: int


class GrammarStates:
    """The states of one generation's grammar, by number, as they are reached.

    Raises:
        InvalidTaskError: there are too many ways at once, or looking takes longer than `ends_s`.
    """

    def __init__(self, rules: Rules) -> None:
        self.ends_s = float("inf")
        """On time.thread_time()'s clock."""
        self.alternatives: list[list[Element]] = []
        self._starts: list[range] = []
        for alternatives in rules.rules:
            at = len(self.alternatives)
            self.alternatives += alternatives
            self._starts.append(range(at, at + len(alternatives)))
        self._root = rules.root
        self._nodes = [_Node(-1, -1, -1)]
        self._numbers: dict[_Node, int] = {}
        self._states: list[frozenset[int]] = []
        self._state_numbers: dict[frozenset[int], int] = {}
        self._steps: dict[tuple[int, int], int] = {}
        self._remembered = 0

    def __len__(self) -> int:
        return len(self._states)

    def start(self) -> int:
        """The state before the first character."""
        return self._close([_Node(start, 0, _EMPTY) for start in self._starts[self._root]])

    def is_whole(self, state: int) -> bool:
        """Whether the text may end here."""
        return _EMPTY in self._states[state]

    def expected(self, state: int) -> set[Element]:
        """What may come next, but for the end."""
        return {self._element(number) for number in self._states[state] if number != _EMPTY}

    def step(self, state: int, code_point: int) -> int:
        """The state after a character."""
        known = self._steps.get((state, code_point))
        if known is not None:
            return known
        nodes = []
        for number in self._states[state]:
            if number == _EMPTY:
                continue
            element = self._element(number)
            if isinstance(element, Characters) and code_point in element:
                nodes.append(self._past(number))
        after = self._close(nodes) if nodes else DEAD
        if len(self._steps) >= MAX_REMEMBERED:
            self._steps.clear()
        self._steps[state, code_point] = after
        return after

    def step_by_token(self, state: int, token: int) -> int:
        """The state after a token that the grammar names, or names as the one that is not wanted."""
        nodes = []
        for number in self._states[state]:
            element = None if number == _EMPTY else self._element(number)
            if isinstance(element, TokenElement) and (element.token == token) != element.negated:
                nodes.append(self._past(number))
        return self._close(nodes) if nodes else DEAD

    def either(self, one: int, other: int) -> int:
        """The state of all ways of two states."""
        if DEAD in (one, other):
            return max(one, other)
        return self._state_of(self._states[one] | self._states[other])

    def check_time(self) -> None:
        """Raise InvalidTaskError where the time is over."""
        if time.thread_time() >= self.ends_s:
            raise InvalidTaskError(
                "following the grammar takes too long; fewer alternatives and repetitions would "
                "take less"
            )

    def _element(self, number: int) -> Element:
        node = self._nodes[number]
        return self.alternatives[node.alternative][node.place]

    def _past(self, number: int) -> _Node:
        node = self._nodes[number]
        return node._replace(place=node.place + 1)

    def _close(self, todo: list[_Node]) -> int:
        """The state of all stacks that these lead to without a character: ends are left, and rules
        entered, until something that is read comes next."""
        self.check_time()
        seen = set(todo)
        stacks: set[int] = set()
        while todo:
            node = todo.pop()
            alternative = self.alternatives[node.alternative]
            if node.place == len(alternative):
                if node.below == _EMPTY:
                    stacks.add(_EMPTY)
                    continue
                following = [self._nodes[node.below]]
            else:
                element = alternative[node.place]
                if not isinstance(element, Reference):
                    stacks.add(self._number(node))
                    continue
                below = node.below
                if node.place + 1 < len(alternative):
                    below = self._number(node._replace(place=node.place + 1))
                following = [_Node(start, 0, below) for start in self._starts[element.rule]]
            for each in following:
                if each not in seen:
                    seen.add(each)
                    todo.append(each)
            if len(seen) > MAX_VISITS or len(stacks) > MAX_STACKS:
                raise InvalidTaskError(
                    f"the grammar is too ambiguous: a text can be made in more than {MAX_STACKS:,} "
                    f"ways, or {MAX_VISITS:,} elements have to be looked at for a character"
                )
        return self._state_of(frozenset(stacks))

    def _number(self, node: _Node) -> int:
        number = self._numbers.get(node)
        if number is None:
            number = self._numbers[node] = len(self._nodes)
            self._nodes.append(node)
            self._remember(1)
        return number

    def _state_of(self, stacks: frozenset[int]) -> int:
        number = self._state_numbers.get(stacks)
        if number is None:
            number = self._state_numbers[stacks] = len(self._states)
            self._states.append(stacks)
            self._remember(len(stacks))
        return number

    def _remember(self, count: int) -> None:
        self._remembered += count
        if self._remembered > 4 * MAX_REMEMBERED:
            raise InvalidTaskError("the grammar needs too much memory to follow this text")
