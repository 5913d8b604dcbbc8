"""What the engine is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from airloom.errors import InvalidTaskError
from collaboration.confidence import Confidence
from device_agent.engine import limits
from device_agent.engine.limits import check_count, check_integer, check_number, check_text

FinishReason = Literal["end", "stop", "length"]
"""The model ended by itself, a stop string came, or tokens ran out (`max_tokens`, the context)."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn.

    Penalties and biases change the logits; top-k, top-p and min-p then cut the tail, in this order.

    Raises:
        InvalidTaskError: a value is not finite or out of its range.
    """

    temperature: float = 0.0
    """Up to 100; 0 and less is greedy."""
    top_k: int = 0
    """Only the k likeliest tokens; 0 and less keeps all."""
    top_p: float = 1.0
    """Only the likeliest tokens that together have this probability; above 0, 1 and more keeps all."""
    min_p: float = 0.0
    """Only tokens at least this likely relative to the likeliest: 0 to 1."""
    frequency_penalty: float = 0.0
    """Subtracted from a token's logit for each time that it was generated: -2 to 2 …"""
    presence_penalty: float = 0.0
    """… and once where it was generated at all."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Added to a token's logit: -100 to 100."""
    seed: int = 0
    """0 to 2^64 - 1."""

    def __post_init__(self) -> None:
        check_number("temperature", self.temperature, highest=100, allowed="a number up to 100")
        check_integer("top_k", self.top_k, -limits.MAX_INT32)
        check_number("top_p", self.top_p)
        if self.top_p <= 0:
            raise limits.refuse("top_p", self.top_p, "above 0; 1 and more keeps all tokens")
        check_number("min_p", self.min_p, 0, 1)
        check_number("frequency_penalty", self.frequency_penalty, -2, 2)
        check_number("presence_penalty", self.presence_penalty, -2, 2)
        check_count("logit_bias", len(self.logit_bias), limits.MAX_LOGIT_BIASES)
        for token, bias in self.logit_bias.items():
            check_integer("a token of logit_bias", token, 0)
            check_number(f"logit_bias[{token}]", bias, -100, 100)
        check_integer("seed", self.seed, 0, limits.MAX_SEED)

    @property
    def plain(self) -> bool:
        """Whether the logits are used as they are."""
        return not (self.frequency_penalty or self.presence_penalty or self.logit_bias)


@dataclass(frozen=True, slots=True)
class AdapterUse:
    """A loaded LoRA adapter, by name, and how strongly it is applied (-100 to 100)."""

    name: str
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_text("an adapter's name", self.name, 1, limits.MAX_NAME_CHARACTERS)
        most = limits.MAX_ADAPTER_SCALE
        check_number(f"adapter {self.name!r}: scale", self.scale, -most, most)


@dataclass(frozen=True, slots=True)
class Image:
    """An encoded image (PNG, JPEG, …); the prompt holds `IMAGE_MARK` where it stands."""

    data: bytes

    def __post_init__(self) -> None:
        limits.check_bytes("an image", len(self.data), limits.MAX_IMAGE_BYTES)


IMAGE_MARK = "<__media__>"


@dataclass(frozen=True, slots=True)
class Turn:
    """What somebody said in a conversation; `IMAGE_MARK` stands in the text for an image."""

    role: str
    text: str

    def __post_init__(self) -> None:
        check_text("a message's role", self.role, 1, limits.MAX_NAME_CHARACTERS)
        check_text("a message", self.text, 0, limits.MAX_PROMPT_BYTES)


@dataclass(frozen=True, slots=True)
class Conversation:
    """A prompt that the model's chat template has still to write."""

    turns: tuple[Turn, ...]

    def __post_init__(self) -> None:
        check_count("messages", len(self.turns), limits.MAX_TURNS)
        if sum(len(turn.text) for turn in self.turns) > limits.MAX_PROMPT_BYTES:
            raise InvalidTaskError(
                f"messages have more than {limits.MAX_PROMPT_BYTES:,} characters together"
            )


@dataclass(frozen=True, slots=True)
class JsonSchema:
    """The schema of a JSON value that the text must be; it becomes a grammar."""

    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """What to generate, from text, from token ids or from a conversation.

    Raises:
        InvalidTaskError: a field is out of its range; `limits` has the numbers.
    """

    prompt: str | tuple[int, ...] | Conversation
    images: tuple[Image, ...] = ()
    max_tokens: int = 128
    sampling: Sampling = Sampling()
    stop: tuple[str, ...] = ()
    grammar: str | JsonSchema | None = None
    """GBNF or a schema that the text must follow."""
    adapters: tuple[AdapterUse, ...] = ()
    scores: bool = True
    """Whether to compute each token's log-probability, and with it the confidence."""
    top_logprobs: int = 0
    """How many of the likeliest tokens to report at each step."""
    ignore_end: bool = False
    """Go on where the model would end; for measurements of a given length."""
    deadline_s: float | None = None
    """On time.monotonic()'s clock."""

    def __post_init__(self) -> None:
        if isinstance(self.prompt, str):
            check_text("the prompt", self.prompt, 0, limits.MAX_PROMPT_BYTES)
        check_count("images", len(self.images), limits.MAX_IMAGES)
        check_integer("max_tokens", self.max_tokens, 1)
        check_count("stop", len(self.stop), limits.MAX_STOPS)
        for index, mark in enumerate(self.stop):
            check_text(f"stop[{index}]", mark, 1, limits.MAX_STOP_CHARACTERS)
        if isinstance(self.grammar, str):
            check_text("grammar", self.grammar, 1, limits.MAX_GRAMMAR_BYTES)
        check_count("adapters", len(self.adapters), limits.MAX_ADAPTERS)
        check_integer("top_logprobs", self.top_logprobs, 0, limits.MAX_TOP_LOGPROBS)
        if self.deadline_s is not None:
            check_number("deadline", self.deadline_s, allowed="a finite number of seconds")


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
