"""Chat templates: programs that came with a model's file, and write a conversation as its prompt."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from airloom.errors import AirloomError, InvalidTaskError, ModelLoadError
from device_agent.engine.text_work import run_within

FallbackName = Literal["chatml", "plain"]

FALLBACKS: Mapping[str, str] = {
    "chatml": "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "plain": "{% for message in messages %}{{ message.role }}: {{ message.content }}\n"
    "{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}",
}
"""For models whose file has no template, or one that cannot be used."""

SAY_ANOTHER_TEMPLATE = "chat_template or chat_template_fallback is set in the model's settings"

_MAX_TEMPLATE_BYTES = 1 << 20
_ROOM_CHARACTERS = 1 << 20
"""What a template may write beyond four times its messages."""


class _Generation(Extension):
    """`{% generation %} … {% endgeneration %}` marks for training what the model writes."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


@dataclass(frozen=True, slots=True)
class TemplateChoice:
    """What the settings say about a model's chat template."""

    path: Path | None = None
    """A Jinja file, instead of the one in the model's file."""
    fallback: FallbackName | None = None


OWN_TEMPLATE = TemplateChoice()
"""The one in the model's file, and no other."""


class ChatTemplate:
    """A compiled template, in a sandbox: its author is whoever made the model's file.

    Raises:
        InvalidTaskError: it cannot be compiled; says where.
    """

    def __init__(self, source: str, *, origin: str, marks: Mapping[str, str]) -> None:
        """`marks` are the special tokens' texts that templates name (`bos_token`, …)."""
        self.origin = origin
        self._marks = dict(marks)
        if len(source) > _MAX_TEMPLATE_BYTES:
            raise InvalidTaskError(
                f"{origin} has {len(source):,} characters: at most {_MAX_TEMPLATE_BYTES:,} are taken"
            )
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols", _Generation],
        )
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = time.strftime
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise InvalidTaskError(f"{origin}, line {error.lineno}: {error}") from None
        except (jinja2.TemplateError, RecursionError, SyntaxError, ValueError) as error:
            raise InvalidTaskError(f"{origin}: {type(error).__name__}: {error}") from None

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Write messages (role, content) as a prompt that the model continues.

        Raises:
            InvalidTaskError: the template takes no such conversation, fails, or writes too much.
        """
        room = _ROOM_CHARACTERS + 4 * sum(len(message["content"]) for message in messages)
        pieces: list[str] = []
        try:
            for piece in self._template.generate(
                messages=messages, add_generation_prompt=True, **self._marks
            ):
                pieces.append(piece)
                room -= len(piece)
                if room < 0:
                    raise InvalidTaskError(f"{self.origin} writes too much for this conversation")
        except jinja2.TemplateError as error:
            raise InvalidTaskError(f"{self.origin} refuses this: {error}") from None
        except AirloomError:
            raise
        # A template is a program: it may fail in any way that Python knows.
        except Exception as error:
            raise InvalidTaskError(
                f"{self.origin} fails for this conversation: {type(error).__name__}: {error}"
            ) from error
        # The tokeniser adds the beginning token itself.
        return "".join(pieces).removeprefix(self._marks.get("bos_token", ""))


@dataclass(frozen=True, slots=True)
class ChosenTemplate:
    """The template in use, and what is to be said about it at the start."""

    template: ChatTemplate | None
    problem: str = ""
    """What is wrong with the model's own template; empty where nothing is."""


def choose_template(
    own: str | None, choice: TemplateChoice, marks: Mapping[str, str]
) -> ChosenTemplate:
    """Compile and try the settings' template, else the file's own, else the fallback.

    Raises:
        ModelLoadError: the template that the settings name cannot be used.
    """
    if choice.path is not None:
        try:
            source = choice.path.read_text(encoding="utf-8")
            return ChosenTemplate(_tried(source, f"chat_template {choice.path}", marks))
        except (OSError, UnicodeDecodeError, AirloomError) as error:
            raise ModelLoadError(f"chat_template {choice.path} cannot be used: {error}") from error
    problem = "the model's file has no chat template"
    if own is not None:
        try:
            return ChosenTemplate(_tried(own, "the model's chat template", marks))
        except AirloomError as error:
            problem = str(error)
    if choice.fallback is None:
        return ChosenTemplate(None, problem)
    source = FALLBACKS[choice.fallback]
    template = ChatTemplate(source, origin=f"the fallback template {choice.fallback}", marks=marks)
    return ChosenTemplate(template, problem)


def _tried(source: str, origin: str, marks: Mapping[str, str]) -> ChatTemplate:
    """Compile a template and have it write a conversation; both within the time limit."""

    def attempt() -> ChatTemplate:
        template = ChatTemplate(source, origin=origin, marks=marks)
        template.render([{"role": "user", "content": "Hello"}])
        return template

    return run_within(origin, attempt)
