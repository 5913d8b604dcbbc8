"""A conversation to be continued, whichever engine does it: this machine's, or a server's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from airloom.errors import NotFoundError
from device_agent.engine import (
    AdapterUse,
    Completion,
    Engine,
    GenerateRequest,
    Generation,
    Hold,
    Image,
    ModelDescription,
    OnText,
    Sampling,
    SequenceState,
)
from device_agent.engine.grammars.json_schema import any_json
from device_agent.engine.requests import Conversation, JsonSchema, Turn


@dataclass(frozen=True, slots=True)
class Message:
    """One turn; `IMAGE_MARK` stands in the text where an image belongs."""

    role: str
    text: str
    images: tuple[Image, ...] = ()


@dataclass(frozen=True, slots=True)
class OutputForm:
    """What the text must look like: at most one of these."""

    json_object: bool = False
    json_schema: dict[str, Any] | None = None
    grammar: str | None = None

    def as_grammar(self) -> str | JsonSchema | None:
        """GBNF or a schema, None where the form is free."""
        if self.json_schema is not None:
            return JsonSchema(self.json_schema)
        return any_json() if self.json_object else self.grammar


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What to continue, and within which limits."""

    messages: tuple[Message, ...]
    max_tokens: int
    run_id: str = ""
    """Names the running generation, for whoever wants to hand it over; empty is nobody."""
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    form: OutputForm = field(default_factory=OutputForm)
    adapters: tuple[AdapterUse, ...] = ()
    scores: bool = True
    top_logprobs: int = 0
    deadline_s: float | None = None
    """On time.monotonic()'s clock."""


class ChatModel(Protocol):
    """Continues conversations."""

    @property
    def description(self) -> ModelDescription: ...

    async def chat(self, request: ChatRequest, on_text: OnText | None = None) -> Completion:
        """Continue a conversation; raises AirloomError, and stops when cancelled."""
        ...


class EngineChat:
    """Continues conversations with an engine in this process."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._running: dict[str, Generation] = {}

    @property
    def description(self) -> ModelDescription:
        return self.engine.description

    def generate_request(self, request: ChatRequest) -> GenerateRequest:
        """What the engine is asked; its chat template writes the conversation as a prompt."""
        return GenerateRequest(
            prompt=Conversation(
                tuple(Turn(message.role, message.text) for message in request.messages)
            ),
            images=tuple(image for message in request.messages for image in message.images),
            max_tokens=request.max_tokens,
            sampling=request.sampling,
            stop=request.stop,
            grammar=request.form.as_grammar(),
            adapters=request.adapters,
            scores=request.scores,
            top_logprobs=request.top_logprobs,
            deadline_s=request.deadline_s,
        )

    async def chat(self, request: ChatRequest, on_text: OnText | None = None) -> Completion:
        generation = await self.engine.start(
            self.generate_request(request), stream=on_text is not None
        )
        return await self._follow(request.run_id, generation, on_text)

    async def resume(
        self,
        run_id: str,
        state: SequenceState,
        on_text: OnText | None = None,
        *,
        deadline_s: float | None = None,
    ) -> Completion:
        """Go on with a generation that was suspended elsewhere; raises as Engine.resume does."""
        generation = await self.engine.resume(
            state, stream=on_text is not None, deadline_s=deadline_s
        )
        return await self._follow(run_id, generation, on_text)

    async def _follow(
        self, run_id: str, generation: Generation, on_text: OnText | None
    ) -> Completion:
        if run_id:
            self._running[run_id] = generation
        try:
            return await generation.follow(on_text)
        finally:
            self._running.pop(run_id, None)

    async def hold(self, run_id: str, lease_s: float) -> Hold:
        """Let a run stand still, to be resumed elsewhere; raises as Generation.hold does.

        Raises:
            NotFoundError: no generation of that run is under way here now.
        """
        generation = self._running.get(run_id)
        if generation is None:
            raise NotFoundError(f"the run {run_id!r} is not generating here now")
        return await generation.hold(lease_s)
