"""From a request to a sequence that the decode loop can take, or to the reason why not."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

from airloom.errors import InvalidTaskError, UnsupportedByModelError
from device_agent.engine.adapters import Adapters, applies_from
from device_agent.engine.context import Context
from device_agent.engine.grammars.grammar import Grammar
from device_agent.engine.grammars.json_schema import from_json_schema
from device_agent.engine.images import ImageSpan, Vision
from device_agent.engine.memory_estimate import estimate, shape_of
from device_agent.engine.model import Model
from device_agent.engine.requests import Conversation, GenerateRequest, JsonSchema
from device_agent.engine.sequence import Sequence
from device_agent.engine.sequence_state import (
    HEADER_BYTES,
    HEADER_BYTES_PER_TOKEN,
    SequenceState,
)
from device_agent.engine.text_work import TextWork
from device_agent.engine.tokenizer import Tokenizer

_SMALL_CONVERSATION = 8192
"""Characters that a chat template, which was tried at the start, writes sooner than a thread begins."""
_IMAGES_LIMIT_S = 120.0
"""A board's processor may take a minute for one."""


class Admission:
    """Checks requests and handed-over states against one model, its context and its adapters."""

    def __init__(
        self, model: Model, context: Context, adapters: Adapters, vision: Vision | None
    ) -> None:
        self._work = TextWork()
        self._image_work = TextWork(threads=1, limit_s=_IMAGES_LIMIT_S)
        self.tokenizer = Tokenizer(model, self._work)
        self._model = model
        self._context = context
        self._adapters = adapters
        self._vision = vision

    async def admit(self, request: GenerateRequest) -> Sequence:
        """Write a request's prompt, tokenise it and compile its grammar.

        Raises:
            InvalidTaskError: the request cannot be met by this model.
            OverloadedError: too much text is being worked on.
            DeadlineExceededError: the deadline passed meanwhile.
        """
        self._check_can_continue()
        request = await self._written(request)
        tokens, images = await self._read(request)
        if not tokens:
            raise InvalidTaskError("the prompt has no tokens")
        context_tokens = self._context.context_tokens
        if len(tokens) >= context_tokens:
            raise UnsupportedByModelError(
                f"the prompt has {len(tokens)} tokens, the model's context only {context_tokens}"
            )
        for token in request.sampling.logit_bias:
            self._check_token(token, "logit_bias")
        adapters = self._adapters.resolve(request.adapters)
        return Sequence(
            model=self._model,
            request=request,
            tokens=tokens,
            context_tokens=context_tokens,
            adapters=adapters,
            adapters_from=applies_from(adapters, tokens),
            images=images,
            grammar=await self._grammar(request),
        )

    def close(self) -> None:
        """Wait for the work on text and images that may still be using the model."""
        self._work.close()
        self._image_work.close()

    @cached_property
    def max_state_bytes(self) -> int:
        """More than a handed-over state of a full context takes."""
        context = self._context
        memory = estimate(
            shape_of(self._model.native, self._model.path),
            parallel=1,
            context_tokens=context.context_tokens,
            batch_tokens=1,
            key_value_type=context.key_value_type,
            outputs=1,
        ).cache
        tokens = context.context_tokens * HEADER_BYTES_PER_TOKEN
        return memory + memory // 4 + tokens + HEADER_BYTES

    async def read_state(self, data: bytes) -> SequenceState:
        """Read a state that was handed over; raises as `SequenceState.from_bytes`, or where it is
        larger than one of a full context."""
        if len(data) > self.max_state_bytes:
            raise InvalidTaskError(
                f"the state has {len(data):,} bytes: at most {self.max_state_bytes:,} are taken here"
            )
        return await self._work.run("reading a state", lambda: SequenceState.from_bytes(data))

    async def resume(self, state: SequenceState) -> Sequence:
        """Make a sequence of a generation that was suspended in another engine.

        Raises:
            InvalidTaskError: it belongs to another model, cache layout or adapter file, or has what
                this engine could not have made.
        """
        self._check_can_continue()
        self._check_fits(state)
        prompt = state.tokens[: state.prompt_tokens]
        adapters = self._adapters.resolve(state.request.adapters)
        sequence = Sequence(
            model=self._model,
            request=state.request,
            tokens=list(prompt),
            context_tokens=self._context.context_tokens,
            adapters=adapters,
            adapters_from=applies_from(adapters, prompt),
            grammar=await self._grammar(state.request),
            draws=state.draws,
            shared=False,
        )
        await self._work.run(
            "replaying a state",
            lambda: sequence.replay(state.generated, state.scores),
            deadline_s=state.request.deadline_s,
        )
        sequence.position = state.position
        return sequence

    def _check_can_continue(self) -> None:
        if not self._model.causal:
            raise UnsupportedByModelError(
                f"{self._model.description.name} ({self._model.description.architecture}) embeds "
                "texts and cannot continue them"
            )

    async def _written(self, request: GenerateRequest) -> GenerateRequest:
        """The request with its conversation as a prompt, and its schema as a grammar."""
        prompt, grammar = request.prompt, request.grammar
        if isinstance(prompt, Conversation):
            messages = [{"role": turn.role, "content": turn.text} for turn in prompt.turns]
            if sum(len(turn.text) for turn in prompt.turns) <= _SMALL_CONVERSATION:
                prompt = self._model.chat_prompt(messages)
            else:
                prompt = await self._work.run(
                    "writing the conversation by the chat template",
                    lambda: self._model.chat_prompt(messages),
                    deadline_s=request.deadline_s,
                )
        if isinstance(grammar, JsonSchema):
            schema = grammar.schema
            grammar = await self._work.run(
                "writing the JSON schema as a grammar",
                lambda: from_json_schema(schema),
                deadline_s=request.deadline_s,
            )
        if prompt is request.prompt and grammar is request.grammar:
            return request
        return replace(request, prompt=prompt, grammar=grammar)

    async def _read(self, request: GenerateRequest) -> tuple[list[int], tuple[ImageSpan, ...]]:
        """The tokens of the prompt, and the images among them."""
        prompt, images, vision = request.prompt, request.images, self._vision
        if not images:
            return await self._tokens(request), ()
        if vision is None:
            raise UnsupportedByModelError(
                f"{self._model.description.name} reads text only: no projector (mmproj) is "
                "configured for it"
            )
        if not isinstance(prompt, str):
            raise InvalidTaskError("a prompt of token ids cannot hold images")
        self.tokenizer.check_bytes(prompt.encode(), self._context.context_tokens)
        return await self._image_work.run(
            f"reading {len(images)} images",
            lambda: vision.read(prompt, images),
            deadline_s=request.deadline_s,
        )

    async def _tokens(self, request: GenerateRequest) -> list[int]:
        prompt = request.prompt
        most = self._context.context_tokens
        if isinstance(prompt, str):
            return await self.tokenizer.tokenize(
                prompt, most_tokens=most, deadline_s=request.deadline_s
            )
        assert not isinstance(prompt, Conversation)
        # A longer prompt is refused for its length: its tokens need no look.
        for token in prompt[:most]:
            self._check_token(token, "the prompt")
        return list(prompt)

    def _check_token(self, token: int, where: str) -> None:
        if not 0 <= token < self._model.vocabulary_size:
            raise InvalidTaskError(
                f"{where} has token {token}; "
                f"the vocabulary ends at {self._model.vocabulary_size - 1}"
            )

    async def _grammar(self, request: GenerateRequest) -> Grammar | None:
        grammar = request.grammar
        if grammar is None:
            return None
        assert isinstance(grammar, str), "a schema was written as a grammar before"
        return await self._work.run(
            "reading the grammar",
            lambda: Grammar(self._model, grammar),
            deadline_s=request.deadline_s,
        )

    def _check_fits(self, state: SequenceState) -> None:
        sha256 = self._model.description.sha256
        if state.model_sha256 != sha256:
            raise InvalidTaskError(
                f"the state is of a model with SHA-256 {state.model_sha256[:16]}…, this engine runs "
                f"{sha256[:16]}…"
            )
        if state.layout != self._context.layout:
            raise InvalidTaskError(
                f"the state's keys and values are {state.layout}, "
                f"this engine's {self._context.layout}"
            )
        context_tokens = self._context.context_tokens
        if len(state.tokens) >= context_tokens:
            raise InvalidTaskError(
                f"the state has {len(state.tokens)} tokens, this engine's context only "
                f"{context_tokens}"
            )
        for token in state.tokens:
            self._check_token(token, "the state")
        for token in state.request.sampling.logit_bias:
            self._check_token(token, "the state's logit_bias")
        for use in state.request.adapters:
            if use.scale and use.name not in state.adapter_sha256:
                raise InvalidTaskError(f"the state does not say which file adapter {use.name!r} is")
        for name, adapter_sha256 in state.adapter_sha256.items():
            if self._adapters.get(name).sha256 != adapter_sha256:
                raise InvalidTaskError(f"the state's adapter {name!r} is another file than here")
