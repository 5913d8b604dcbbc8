"""Output that must follow a grammar: which token may come next, and where that leads.

llama.cpp's own grammars cannot be interrupted, and recurse as deeply as a grammar or a token is long.
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from airloom.errors import InvalidTaskError
from device_agent.engine.grammars import gbnf
from device_agent.engine.grammars.gbnf import Characters, Element, TokenElement
from device_agent.engine.grammars.states import DEAD, GrammarStates
from device_agent.engine.grammars.vocabulary_text import code_points_beginning
from device_agent.engine.model import Model

STEP_LIMIT_S = 0.5
"""Of a processor, for one token."""
GRACE_S, MEAN_LIMIT_S = 2.0, 0.1
"""For all tokens together: so much, and so much for each."""
MAX_TABLE = 1 << 22
"""Entries of where states and classes of characters lead, for one token."""

_UNKNOWN = -1
"""In a table of states: not looked at yet."""


class Grammar:
    """One generation's place in a grammar.

    Raises:
        InvalidTaskError: the text is no grammar, or too large a one.
    """

    def __init__(self, model: Model, text: str) -> None:
        self._model = model
        self._states = GrammarStates(gbnf.parse(text, self._token_of))
        self._class_of, self._examples = _classes(
            self._states.alternatives, model.vocabulary_text.code_points
        )
        self._pending = b""
        """The bytes of a character whose others have still to come."""
        self._used_s = 0.0
        self._accepted = 0
        self._begin()
        self._state = self._states.start()

    def _token_of(self, text: str) -> int:
        tokens = self._model.tokenize(text[:256], add_special=False)
        if len(tokens) != 1:
            raise InvalidTaskError(f"the grammar names {text[:80]!r}, which is not a token")
        return tokens[0]

    def close(self) -> None:
        """Forget all that was remembered; nothing can be asked afterwards."""
        del self._states

    def allows(self, token: int) -> bool:
        """Whether the grammar lets this token come next.

        Raises:
            InvalidTaskError: to find out takes too long.
        """
        began_s = self._begin()
        try:
            if token in self._model.end_tokens:
                return self._may_end
            return self._after(token)[0] != DEAD
        finally:
            self._used_s += time.thread_time() - began_s

    def restrict(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """The logits with every token that may not come next at minus infinity.

        Raises:
            InvalidTaskError: no token of this vocabulary can go on, or finding it takes too long.
        """
        began_s = self._begin()
        try:
            allowed = self._allowed()
        finally:
            self._used_s += time.thread_time() - began_s
        restricted = np.where(allowed, logits, np.float32(-np.inf))
        if not np.isfinite(restricted).any():
            raise InvalidTaskError("no token of the model's vocabulary can follow the grammar here")
        return restricted

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
            if state == DEAD:
                raise InvalidTaskError(f"token {token} does not follow the grammar")
            self._state, self._pending = state, pending
        finally:
            self._accepted += 1
            self._used_s += time.thread_time() - began_s

    def _begin(self) -> float:
        began_s = time.thread_time()
        left_s = GRACE_S + MEAN_LIMIT_S * self._accepted - self._used_s
        self._states.ends_s = began_s + min(STEP_LIMIT_S, left_s)
        return began_s

    # One token.

    @property
    def _may_end(self) -> bool:
        return not self._pending and self._states.is_whole(self._state)

    def _after(self, token: int) -> tuple[int, bytes]:
        """The state after a token, and the bytes of a character that it leaves unfinished."""
        piece = self._model.pieces[token]
        if not piece or piece[0] == 0:
            # Control tokens have no text, and a grammar asks for text.
            return DEAD, b""
        state, pending = self._after_text(self._pending + piece)
        if not self._pending:
            state = self._states.either(state, self._states.step_by_token(self._state, token))
        return state, pending

    def _after_text(self, data: bytes) -> tuple[int, bytes]:
        pending = b""
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            pending = data[error.start :]
            if error.reason != "unexpected end of data":
                return DEAD, b""
            text = data[: error.start].decode()
        state = self._state
        for character in text:
            state = self._states.step(state, ord(character))
            if state == DEAD:
                return DEAD, b""
        if pending:
            first, last = code_points_beginning(pending)
            expected = self._states.expected(state)
            if not any(isinstance(e, Characters) and e.meets(first, last) for e in expected):
                return DEAD, b""
        return state, pending

    # All tokens.

    def _allowed(self) -> NDArray[np.bool_]:
        """For each token of the vocabulary whether it may come next."""
        texts = self._model.vocabulary_text
        allowed = np.zeros(self._model.vocabulary_size, bool)
        expected = self._states.expected(self._state)
        if self._pending:
            one_by_one = texts.continuing
        else:
            one_by_one = texts.unfinished
            allowed[self._whole_tokens()] = True
            for element in expected:
                if isinstance(element, TokenElement):
                    named = np.arange(len(allowed)) == element.token
                    allowed |= texts.has_text & (named != element.negated)
                elif isinstance(element, Characters):
                    allowed[texts.leads[element.meets_any(*texts.lead_ranges)]] = True
        for token in one_by_one.tolist():
            self._states.check_time()
            allowed[token] |= self._after(token)[0] != DEAD
        allowed[list(self._model.end_tokens)] = self._may_end
        return allowed

    def _whole_tokens(self) -> NDArray[np.int32]:
        """The tokens of whole characters that may come next: all are followed together, a character
        at a time, and those in the same state with characters of the same class are one."""
        texts = self._model.vocabulary_text
        reached = [DEAD, self._state]
        rows = {state: row for row, state in enumerate(reached)}
        table = np.full((16, len(self._examples)), _UNKNOWN, np.int32)
        table[0] = 0
        index = np.arange(len(texts.tokens))
        at = np.ones(len(index), np.int64)
        whole: list[NDArray[np.int32]] = []
        for column in texts.columns:
            longer = int(np.searchsorted(index, len(column)))
            whole.append(texts.tokens[index[longer:]])
            index, at = index[:longer], at[:longer]
            if not longer:
                break
            classes = self._class_of[column[index]]
            unknown = table[at, classes] == _UNKNOWN
            for pair in np.unique(at[unknown] << 32 | classes[unknown]).tolist():
                row, kind = pair >> 32, pair & 0xFFFFFFFF
                after = self._states.step(reached[row], int(self._examples[kind]))
                if after not in rows:
                    rows[after] = len(reached)
                    reached.append(after)
                    table = _with_room(table, len(reached))
                table[row, kind] = rows[after]
            at = table[at, classes].astype(np.int64)
            index, at = index[at > 0], at[at > 0]
        whole.append(texts.tokens[index])
        return np.concatenate(whole)


def _with_room(table: NDArray[np.int32], rows: int) -> NDArray[np.int32]:
    if rows <= len(table):
        return table
    if table.size > MAX_TABLE:
        raise InvalidTaskError("the grammar needs too much memory to follow this text")
    return np.concatenate((table, np.full_like(table, _UNKNOWN)))


def _classes(
    alternatives: list[list[Element]], code_points: NDArray[np.int32]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Put characters that the grammar nowhere tells apart into one class; for each character its
    class, and for each class one of its characters."""
    numbers = np.random.default_rng(0)
    signatures = np.zeros(len(code_points), np.uint64)
    for element in {element for alternative in alternatives for element in alternative}:
        if isinstance(element, Characters):
            mark = numbers.integers(1, 1 << 63, dtype=np.uint64)
            places = [*np.searchsorted(code_points, element.bounds).tolist(), len(code_points)]
            for first, last in zip(places[::2], places[1::2], strict=False):
                signatures[first:last] ^= mark
    _, examples, classes = np.unique(signatures, return_index=True, return_inverse=True)
    return classes.astype(np.int32), code_points[examples]
