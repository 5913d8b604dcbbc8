"""Output that must follow a grammar: which token may come next, and where that leads.

The text so far can have been made in several ways. Each is a stack: the element that comes next, and
what follows it. All stacks together are a state; where a state and a character lead is remembered.
llama.cpp's own grammars cannot be interrupted, and recurse as deeply as a grammar or a token is long.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from airloom.errors import InvalidTaskError
from device_agent.engine import gbnf
from device_agent.engine.gbnf import Characters, Reference, TokenElement
from device_agent.engine.model import Model

MAX_STACKS = 2048
"""Ways at once in which a text can have been made."""
MAX_VISITS = 20_000
"""Elements looked at for one character."""
MAX_REMEMBERED = 1 << 16
"""Stacks of one generation; transitions, which are forgotten beyond that."""
STEP_LIMIT_S = 0.5
"""Of a processor, for one token."""
GRACE_S, MEAN_LIMIT_S = 2.0, 0.1
"""For all tokens together: so much, and so much for each."""
MAX_TABLE = 1 << 22
"""Entries of where states and classes of characters lead, for one token."""

_EMPTY = 0
"""The stack of a text that is whole."""
_DEAD = -1
"""The state that nothing leads on from."""
_UNKNOWN = -1
"""In a table of states: not looked at yet."""


class _Node(NamedTuple):
    """A stack: what comes next (alternative and place in it), and the stack below."""

    alternative: int
    place: int
    below: int


class Grammar:
    """One generation's place in a grammar.

    Raises:
        InvalidTaskError: the text is no grammar, or too large a one.
    """

    def __init__(self, model: Model, text: str) -> None:
        self._model = model
        rules = gbnf.parse(text, self._token_of)
        self._starts: list[range] = []
        self._alternatives: list[list[gbnf.Element]] = []
        for alternatives in rules.rules:
            at = len(self._alternatives)
            self._alternatives += alternatives
            self._starts.append(range(at, at + len(alternatives)))
        self._nodes = [_Node(-1, -1, -1)]
        self._numbers: dict[_Node, int] = {}
        self._states: list[frozenset[int]] = []
        self._state_numbers: dict[frozenset[int], int] = {}
        self._steps: dict[tuple[int, int], int] = {}
        self._pending = b""
        """The bytes of a character whose others have still to come."""
        self._remembered = 0
        self._used_s = 0.0
        self._accepted = 0
        self._classify()
        self._ends_s = time.thread_time() + STEP_LIMIT_S
        self._state = self._close([_Node(start, 0, _EMPTY) for start in self._starts[rules.root]])

    def _token_of(self, text: str) -> int:
        tokens = self._model.tokenize(text[:256], add_special=False)
        if len(tokens) != 1:
            raise InvalidTaskError(f"the grammar names {text[:80]!r}, which is not a token")
        return tokens[0]

    def close(self) -> None:
        """Forget all that was remembered; nothing can be asked afterwards."""
        self._nodes, self._numbers, self._steps = [], {}, {}
        self._states, self._state_numbers = [], {}

    # What the decode loop asks.

    def allows(self, token: int) -> bool:
        """Whether the grammar lets this token come next.

        Raises:
            InvalidTaskError: to find out takes too long.
        """
        began_s = self._begin()
        try:
            return self._allows(token)
        finally:
            self._used_s += time.thread_time() - began_s

    def restrict(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """The logits with every token that may not come next at minus infinity.

        Raises:
            InvalidTaskError: no token of this vocabulary can go on, or finding it takes too long.
        """
        began_s = self._begin()
        try:
            return self._restrict(logits)
        finally:
            self._used_s += time.thread_time() - began_s

    def accept(self, token: int) -> None:
        """Move on past a token that `allows` approved.

        Raises:
            InvalidTaskError: the grammar does not allow it.
        """
        began_s = self._begin()
        try:
            if token in self._model.end_tokens and self._may_end:
                return
            state, pending = self._after(token)
            if state == _DEAD:
                raise InvalidTaskError(f"token {token} does not follow the grammar")
            self._state, self._pending = state, pending
        finally:
            self._accepted += 1
            self._used_s += time.thread_time() - began_s

    # Time.

    def _begin(self) -> float:
        began_s = time.thread_time()
        left_s = GRACE_S + MEAN_LIMIT_S * self._accepted - self._used_s
        self._ends_s = began_s + min(STEP_LIMIT_S, left_s)
        return began_s

    def _check_time(self) -> None:
        if time.thread_time() >= self._ends_s:
            raise InvalidTaskError(
                f"following the grammar takes too long: more than {STEP_LIMIT_S:g} s for a token, or "
                f"{MEAN_LIMIT_S:g} s for each; fewer alternatives and repetitions would take less"
            )

    # Tokens.

    @property
    def _may_end(self) -> bool:
        return _EMPTY in self._states[self._state] and not self._pending

    def _allows(self, token: int) -> bool:
        if token in self._model.end_tokens:
            return self._may_end
        return self._after(token)[0] != _DEAD

    def _after(self, token: int) -> tuple[int, bytes]:
        """The state after a token, and the bytes of a character that it leaves unfinished."""
        piece = self._model.pieces[token]
        if not piece or piece[0] == 0:
            # Control tokens have no text, and a grammar asks for text.
            return _DEAD, b""
        state, pending = self._after_text(self._pending + piece)
        by_token = [] if self._pending else self._by_token(token)
        if not by_token:
            return state, pending
        if state == _DEAD:
            return self._close(by_token), b""
        kept = [self._nodes[number] for number in self._states[state] if number != _EMPTY]
        merged = self._close([*by_token, *kept])
        if _EMPTY in self._states[state]:
            merged = self._state_of(self._states[merged] | {_EMPTY})
        return merged, pending

    def _by_token(self, token: int) -> list[_Node]:
        nodes = []
        for number in self._states[self._state]:
            node = self._nodes[number]
            element = None if number == _EMPTY else self._alternatives[node.alternative][node.place]
            if isinstance(element, TokenElement) and (element.token == token) != element.negated:
                nodes.append(node._replace(place=node.place + 1))
        return nodes

    def _after_text(self, data: bytes) -> tuple[int, bytes]:
        pending = b""
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            pending = data[error.start :]
            if error.reason != "unexpected end of data" or len(pending) > 3:
                return _DEAD, b""
            text = data[: error.start].decode()
        state = self._state
        for character in text:
            state = self._step(state, ord(character))
            if state == _DEAD:
                return _DEAD, b""
        if pending and not self._may_go_on(state, pending):
            return _DEAD, b""
        return state, pending

    def _may_go_on(self, state: int, pending: bytes) -> bool:
        """Whether any character that begins with these bytes may come."""
        length = 2 if pending[0] < 0xE0 else 3 if pending[0] < 0xF0 else 4
        value = pending[0] & (0x7F >> length)
        for byte in pending[1:]:
            value = value << 6 | byte & 0x3F
        left = 6 * (length - len(pending))
        least = {2: 0x80, 3: 0x800, 4: 0x10000}[length]
        first, last = max(least, value << left), ((value + 1) << left) - 1
        return any(
            isinstance(element, Characters) and element.meets(first, last)
            for element in self._expected(state)
        )

    def _restrict(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        allowed = np.zeros(len(logits), bool)
        texts, state = self._model.vocabulary_text, self._states[self._state]
        if not self._pending:
            allowed[self._whole_tokens()] = True
            for element in self._expected(self._state):
                if isinstance(element, TokenElement):
                    some = np.arange(len(logits)) == element.token
                    with_text = np.zeros(len(logits), bool)
                    with_text[texts.tokens] = with_text[texts.parts] = True
                    allowed |= with_text & (some != element.negated)
        for token in texts.parts.tolist():
            self._check_time()
            allowed[token] = self._after(token)[0] != _DEAD
        allowed[list(self._model.end_tokens)] = _EMPTY in state and not self._pending
        restricted = np.where(allowed, logits, np.float32(-np.inf))
        if not np.isfinite(restricted).any():
            raise InvalidTaskError("no token of the model's vocabulary can follow the grammar here")
        return restricted

    def _whole_tokens(self) -> NDArray[np.int32]:
        """The tokens of whole characters that may come next: all are followed together, a character
        at a time, and those at the same place with characters of the same class are one."""
        texts = self._model.vocabulary_text
        reached = [_DEAD, self._state]
        rows = {number: row for row, number in enumerate(reached)}
        table = np.full((16, len(self._class_examples)), _UNKNOWN, np.int32)
        table[0] = 0
        index = np.arange(len(texts.tokens))
        at = np.ones(len(index), np.int32)
        whole: list[NDArray[np.int32]] = []
        for column in texts.columns:
            longer = int(np.searchsorted(index, len(column)))
            whole.append(texts.tokens[index[longer:]])
            index, at = index[:longer], at[:longer]
            if not len(index):
                break
            classes = self._class_of[column[index]]
            for pair in np.unique((at.astype(np.int64) << 32 | classes)[table[at, classes] < 0]):
                row, kind = int(pair >> 32), int(pair & 0xFFFFFFFF)
                after = self._step(reached[row], int(self._class_examples[kind]))
                if after not in rows:
                    rows[after] = len(reached)
                    reached.append(after)
                    table = self._with_room(table, len(reached))
                table[row, kind] = rows[after]
            at = table[at, classes]
            index, at = index[at > 0], at[at > 0]
        whole.append(texts.tokens[index])
        return np.concatenate(whole)

    def _with_room(self, table: NDArray[np.int32], rows: int) -> NDArray[np.int32]:
        if rows <= len(table):
            return table
        if table.size > MAX_TABLE:
            raise InvalidTaskError("the grammar needs too much memory to follow this text")
        more = np.full_like(table, _UNKNOWN)
        return np.concatenate((table, more))

    def _classify(self) -> None:
        """Put characters that the grammar nowhere tells apart into one class."""
        code_points = self._model.vocabulary_text.code_points
        numbers = np.random.default_rng(0)
        signatures = np.zeros(len(code_points), np.uint64)
        sets = {e for alternative in self._alternatives for e in alternative}
        for element in sets:
            if not isinstance(element, Characters):
                continue
            mark = numbers.integers(1, 1 << 63, dtype=np.uint64)
            places = np.searchsorted(code_points, element.bounds)
            for first, last in zip(places[::2], places[1::2], strict=False):
                signatures[first:last] ^= mark
            if len(places) % 2:
                signatures[places[-1] :] ^= mark
        _, examples, classes = np.unique(signatures, return_index=True, return_inverse=True)
        self._class_examples = code_points[examples]
        self._class_of = classes.astype(np.int32)

    def _expected(self, state: int) -> set[gbnf.Element]:
        """What may come next in a state, but for the end."""
        nodes = (self._nodes[number] for number in self._states[state] if number != _EMPTY)
        return {self._alternatives[node.alternative][node.place] for node in nodes}

    # States.

    def _step(self, state: int, code_point: int) -> int:
        """The state after a character."""
        known = self._steps.get((state, code_point))
        if known is not None:
            return known
        nodes = []
        for number in self._states[state]:
            if number == _EMPTY:
                continue
            node = self._nodes[number]
            element = self._alternatives[node.alternative][node.place]
            if isinstance(element, Characters) and code_point in element:
                nodes.append(node._replace(place=node.place + 1))
        after = self._close(nodes) if nodes else _DEAD
        if len(self._steps) >= MAX_REMEMBERED:
            self._steps.clear()
        self._steps[state, code_point] = after
        return after

    def _close(self, todo: list[_Node]) -> int:
        """The state of all stacks that these lead to without a character: ends are left, and rules
        entered, until something that is read comes next."""
        self._check_time()
        seen = set(todo)
        stacks: set[int] = set()
        while todo:
            node = todo.pop()
            alternative = self._alternatives[node.alternative]
            following: list[_Node]
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
            if number > MAX_REMEMBERED:
                raise InvalidTaskError(
                    f"the grammar needs more than {MAX_REMEMBERED:,} places to follow this text"
                )
        return number

    def _state_of(self, stacks: frozenset[int]) -> int:
        number = self._state_numbers.get(stacks)
        if number is None:
            number = self._state_numbers[stacks] = len(self._states)
            self._states.append(stacks)
            self._remembered += len(stacks)
            if self._remembered > 4 * MAX_REMEMBERED:
                raise InvalidTaskError("the grammar needs too much memory to follow this text")
        return number
