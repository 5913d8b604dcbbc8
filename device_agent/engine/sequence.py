"""One generation in flight: what was read, what was written, and how the next token is drawn."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from airloom.errors import InvalidTaskError
from collaboration.confidence import TokenScore, summarise
from device_agent.engine.adapters import BASE, AdapterSet
from device_agent.engine.detokenizer import Detokenizer
from device_agent.engine.grammars.grammar import Grammar
from device_agent.engine.images import ImageSpan
from device_agent.engine.model import Model
from device_agent.engine.prefix_cache import Keys, Slot, position_keys
from device_agent.engine.requests import Completion, Delta, FinishReason, GenerateRequest, Token
from device_agent.engine.sampling import adjust, choose

_OWN_KEYS = -(1 << 62)
"""Far below the keys of images: no other sequence has such a key."""
_own_keys = itertools.count()


@dataclass
class Timing:
    """When a generation passed its stages, on time.monotonic()'s clock."""

    enqueued_s: float
    started_s: float = 0.0
    first_token_s: float = 0.0

    def phases_ms(self, ended_s: float) -> tuple[float, float, float]:
        """Queueing, prefill and decoding."""
        started_s = self.started_s or ended_s
        first_s = self.first_token_s or ended_s
        return (
            (started_s - self.enqueued_s) * 1e3,
            (first_s - started_s) * 1e3,
            (ended_s - first_s) * 1e3,
        )


@dataclass(eq=False)
class Sequence:
    """A request's tokens and their place in the context's memory.

    `tokens` holds the prompt and then what was generated; the first `position` of them are in
    memory. While more than one is not, the prompt is being read (prefill).
    """

    model: Model
    request: GenerateRequest
    tokens: list[int]
    context_tokens: int
    adapters: AdapterSet = BASE
    adapters_from: int = 0
    images: Tokens[ImageSpan] = ()
    grammar: Grammar | None = None
    timing: Timing = field(default_factory=lambda: Timing(time.monotonic()))
    slot: Slot = field(default_factory=lambda: Slot(-1))
    position: int = 0
    cached_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    draws: int = 0
    """Uniform numbers taken from the seed's stream so far."""
    generated: list[Token] = field(default_factory=list)
    scores: list[TokenScore] = field(default_factory=list)
    shared: bool = True
    """Whether other sequences may reuse what this one has in memory: what another engine computed is
    taken on trust, and serves nobody but whoever brought it."""

    def __post_init__(self) -> None:
        self.prompt_tokens = len(self.tokens)
        self.position_shift = 0
        """Positions minus tokens: some models give an image fewer positions than tokens."""
        self.text = Detokenizer(self.request.stop)
        self._random: np.random.Generator | None = None
        self._counts: dict[int, int] | None = None if self.request.sampling.plain else {}
        self.greedy = (
            self.request.sampling.temperature <= 0
            and self.request.sampling.plain
            and self.grammar is None
        )
        """Whether the likeliest token is the next one, whatever came before."""
        self.steady = self.request.sampling.plain and self.grammar is None and not self.request.stop
        """Whether tokens can be drawn one after the other, and be looked at later."""
        # A grammar has its own end, and nothing may follow it.
        endless = self.request.ignore_end and self.grammar is None
        self.ends: frozenset[int] = frozenset() if endless else self.model.end_tokens
        """Tokens after which nothing comes."""
        self._own_key = _OWN_KEYS - next(_own_keys)
        self._most = min(self.request.max_tokens, self.context_tokens - self.prompt_tokens)
        self._fresh: list[Token] = []
        self._fresh_text: list[str] = []

    def keys(self, length: int) -> Keys:
        """The cache keys of the first tokens."""
        if not self.shared:
            return np.full(length, self._own_key)
        keys = position_keys(self.tokens[:length], self.adapters.key, self.adapters_from)
        for span in self.images:
            part = span.keys[: max(0, length - span.start)]
            keys[span.start : span.start + span.length] = part ^ (self.adapters.key << 32)
        return keys

    @property
    def remembered(self) -> int:
        """How many leading tokens another sequence could reuse."""
        if self.position_shift:
            return min(self.position, self.images[0].start)
        return self.position

    @property
    def decoding(self) -> bool:
        return self.position == len(self.tokens) - 1 and bool(self.generated)

    @property
    def set_in_use(self) -> AdapterSet:
        """The adapters that the next token is read with."""
        return self.adapters if self.position >= self.adapters_from else BASE

    @property
    def next_image(self) -> ImageSpan | None:
        """The image that has to be read next, if it is one's turn."""
        for span in self.images:
            if span.start == self.position:
                return span
        return None

    @property
    def readable(self) -> int:
        """How many tokens can be read in one go: up to an image or to where the adapters change."""
        ends = [len(self.tokens)]
        ends += [span.start for span in self.images if span.start > self.position]
        if self.adapters_from > self.position:
            ends.append(self.adapters_from)
        return min(ends) - self.position

    @property
    def room(self) -> int:
        """How many tokens more may be generated."""
        return self._most - len(self.generated)

    @property
    def draftable(self) -> int:
        """How many tokens beyond the next one there is room for."""
        return 0 if self.images else self.room - 1

    def uniform(self) -> float:
        """The next number in [0, 1) of the seed's stream."""
        if self._random is None:
            bits = np.random.PCG64(self.request.sampling.seed)
            bits.advance(self.draws)
            self._random = np.random.Generator(bits)
        self.draws += 1
        return float(self._random.random())

    def draw(self, logits: NDArray[np.float32]) -> int:
        """Choose the next token and move the grammar past it.

        A token that the grammar forbids is drawn again from those it allows: the result has the
        distribution of the allowed tokens, and the grammar is rarely asked about all of them.
        """
        sampling = self.request.sampling
        if self._counts is not None:
            logits = adjust(logits, sampling, self._counts)
        token = choose(logits, sampling, self.uniform() if sampling.temperature > 0 else 0.0)
        if self.grammar is not None:
            if not self.grammar.allows(token):
                logits = self.grammar.restrict(logits)
                token = choose(
                    logits, sampling, self.uniform() if sampling.temperature > 0 else 0.0
                )
            self.grammar.accept(token)
        return token

    def ends_with(self, token: int) -> bool:
        """Whether this token, or the room that it takes, ends the generation."""
        return token in self.ends or self.room <= 1

    def extend(self, tokens: Tokens[Token], scores: Tokens[TokenScore] = ()) -> FinishReason | None:
        """Take generated tokens; say whether, and why, there is an end, and forget what is beyond."""
        if self.request.stop and len(tokens) > 1:
            for index, token in enumerate(tokens):
                reason = self._extend([token], scores[index : index + 1])
                if reason is not None:
                    return reason
            return None
        return self._extend(tokens, scores)

    def _extend(self, tokens: Tokens[Token], scores: Tokens[TokenScore]) -> FinishReason | None:
        """Take tokens of which none but the last can be an end."""
        self.generated += tokens
        self.scores += scores
        self._fresh += tokens
        numbers = [token.token for token in tokens]
        self.tokens += numbers
        if self._counts is not None:
            for number in numbers:
                self._counts[number] = self._counts.get(number, 0) + 1
        ended = numbers[-1] in self.ends
        pieces = self.model.pieces
        text = self.text.push(
            b"".join([pieces[number] for number in (numbers[:-1] if ended else numbers)])
        )
        if text:
            self._fresh_text.append(text)
        if ended:
            return "end"
        if self.text.stopped:
            return "stop"
        return "length" if self.room <= 0 else None

    def take_delta(self) -> Delta | None:
        """What came since the last call: None where no text has become certain."""
        return self.take_last_delta() if self._fresh_text else None

    def take_last_delta(self) -> Delta:
        """All that is left to tell; may be empty."""
        delta = Delta("".join(self._fresh_text), tuple(self._fresh))
        self._fresh, self._fresh_text = [], []
        return delta

    def complete(self, reason: FinishReason) -> Completion:
        """Sum up a generation that ended."""
        if reason != "stop":
            rest = self.text.finish()
            if rest:
                self._fresh_text.append(rest)
        queue_ms, prefill_ms, decode_ms = self.timing.phases_ms(time.monotonic())
        return Completion(
            text=self.text.text,
            tokens=tuple(self.generated),
            confidence=summarise(self.scores) if self.request.scores else None,
            finish_reason=reason,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            queue_ms=queue_ms,
            prefill_ms=prefill_ms,
            decode_ms=decode_ms,
            completion_tokens=len(self.generated),
            adapters=self.adapters.uses,
            drafted_tokens=self.drafted_tokens,
            accepted_tokens=self.accepted_tokens,
        )

    def replay(self, generated: Tokens[Token], scores: Tokens[TokenScore]) -> None:
        """Take tokens that another engine generated.

        Raises:
            InvalidTaskError: the grammar does not allow them, or they go on beyond an end.
        """
        if self.grammar is not None:
            for token in generated:
                if not self.grammar.allows(token.token):
                    raise InvalidTaskError(
                        f"the state's token {token.token} does not follow the state's grammar"
                    )
                self.grammar.accept(token.token)
        for index, token in enumerate(generated):
            if self._extend([token], scores[index : index + 1]) is not None:
                raise InvalidTaskError(
                    f"the state's generation ended with token {index + 1} of {len(generated)}"
                )
        self._fresh, self._fresh_text = [], []
