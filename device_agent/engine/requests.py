"""What the engine is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from collaboration.confidence import Confidence

FinishReason = Literal["end", "stop", "length"]
"""The model ended by itself, a stop string came, or tokens ran out (`max_tokens`, the context)."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn; greedily where `temperature` is 0.

    Penalties and biases change the logits; top-k, top-p and min-p then cut the tail, in this order.
    """

    temperature: float = 0.0
    top_k: int = 0
    """Only the k likeliest tokens; 0 keeps all."""
    top_p: float = 1.0
    """Only the likeliest tokens that together have this probability."""
    min_p: float = 0.0
    """Only tokens at least this likely relative to the likeliest."""
    frequency_penalty: float = 0.0
    """Subtracted from a token's logit for each time that it was generated …"""
    presence_penalty: float = 0.0
    """… and once where it was generated at all."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int = 0

    @property
    def plain(self) -> bool:
        """Whether the logits are used as they are."""
        return not (self.frequency_penalty or self.presence_penalty or self.logit_bias)


@dataclass(frozen=True, slots=True)
class AdapterUse:
    """A loaded LoRA adapter, by name, and how strongly it is applied."""

    name: str
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Image:
    """An encoded image (PNG, JPEG, …); the prompt holds `IMAGE_MARK` where it stands."""

    data: bytes


IMAGE_MARK = "<__media__>"


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """What to generate, from text or from token ids."""

    prompt: str | tuple[int, ...]
    images: tuple[Image, ...] = ()
    max_tokens: int = 128
    sampling: Sampling = Sampling()
    stop: tuple[str, ...] = ()
    grammar: str | None = None
    """GBNF that the text must follow."""
    adapters: tuple[AdapterUse, ...] = ()
    scores: bool = True
    """Whether to compute each token's log-probability, and with it the confidence."""
    top_logprobs: int = 0
    """How many of the likeliest tokens to report at each step."""
    ignore_end: bool = False
    """Go on where the model would end; for measurements of a given length."""
    deadline_s: float | None = None
    """On time.monotonic()'s clock."""


@dataclass(frozen=True, slots=True)
class Alternative:
    """A token that might have come."""

    token: int
    logprob: float


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token."""

    token: int
    logprob: float | None = None
    """Natural logarithm of its probability before penalties, biases, temperature and grammar."""
    alternatives: tuple[Alternative, ...] = ()


@dataclass(frozen=True, slots=True)
class Delta:
    """What has been decoded since the last delta: any number of tokens, text that is certain."""

    text: str
    tokens: tuple[Token, ...]


@dataclass(frozen=True, slots=True)
class Completion:
    """What was generated, how surely, and where the time went."""

    text: str
    tokens: tuple[Token, ...]
    """Empty where a server keeps them to itself."""
    confidence: Confidence | None
    """None where no scores were wanted, or a server gives none."""
    finish_reason: FinishReason
    prompt_tokens: int
    cached_tokens: int
    """Of the prompt's tokens, those whose keys and values were there already."""
    queue_ms: float
    prefill_ms: float
    """Until the first token, or until the end where there was none."""
    decode_ms: float
    completion_tokens: int
    adapters: tuple[AdapterUse, ...] = ()
    drafted_tokens: int = 0
    accepted_tokens: int = 0

    @property
    def token_ids(self) -> tuple[int, ...]:
        return tuple(token.token for token in self.tokens)

    @property
    def logprobs(self) -> tuple[float, ...]:
        return tuple(token.logprob for token in self.tokens if token.logprob is not None)
