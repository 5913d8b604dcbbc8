"""Chat templates: those of real models, none at all, and those that fail."""

from __future__ import annotations

from pathlib import Path

import pytest
from engines import MakeEngine
from files import write_bert, write_byte_level
from prometheus_client import CollectorRegistry

from airloom.errors import InvalidTaskError, ModelLoadError, UnsupportedByModelError
from device_agent.config import ModelSettings
from device_agent.doctor import template_reasons
from device_agent.engine import GenerateRequest, Model
from device_agent.engine.chat_template import TemplateChoice
from device_agent.engine.requests import Conversation, Turn
from device_agent.runtime import memory_need, open_engine

HELLO = [{"role": "user", "content": "Hello"}]
MARKED = (
    "{% for m in messages %}{% if m.role == 'tool' %}{% continue %}{% endif %}"
    "{% if m.role == 'stop' %}{% break %}{% endif %}"
    "{% generation %}[{{ m.role }}] {{ m.content }}{% endgeneration %}{% endfor %}"
)


def test_generation_break_and_continue_are_understood(tmp_path: Path) -> None:
    model = Model(write_byte_level(tmp_path / "m.gguf", template=MARKED))
    roles = ("user", "tool", "assistant", "stop", "user")
    messages = [{"role": role, "content": str(index)} for index, role in enumerate(roles)]
    assert model.chat_prompt(messages) == "[user] 0[assistant] 2"
    model.close()


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        (None, "the model's file has no chat template"),
        ("{% for %}", "the model's chat template, line 1: .*"),
        ("{{ raise_exception('no') }}", "the model's chat template refuses this: no"),
        ("{{ 1 + messages }}", "the model's chat template fails .*TypeError"),
        (
            "{% for a in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
            "the model's chat template writes too much",
        ),
        ("{{ ''.__class__.__mro__ }}", "the model's chat template refuses this"),
    ],
)
async def test_a_model_without_a_usable_template_completes_text_but_holds_no_conversation(
    tmp_path: Path, template: str | None, problem: str, make_engine: MakeEngine
) -> None:
    file = write_byte_level(tmp_path / "m.gguf", template=template)
    engine = make_engine(file)
    with pytest.raises(UnsupportedByModelError, match=f"{problem}.*chat_template_fallback is set"):
        await engine.start(GenerateRequest(Conversation((Turn("user", "Hello"),))))
    assert (await engine.generate(GenerateRequest("Hello", max_tokens=3))).completion_tokens

    with_fallback = Model(file, template=TemplateChoice(fallback="chatml"))
    assert with_fallback.chat_template.problem
    prompt = with_fallback.chat_prompt(HELLO)
    assert prompt == "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    with_fallback.close()


def test_the_settings_template_comes_before_the_models_own(tmp_path: Path) -> None:
    file = write_byte_level(tmp_path / "m.gguf", template="own")
    override = tmp_path / "other.jinja"
    override.write_text("{{ messages[0].content }}!")
    model = Model(file, template=TemplateChoice(override))
    assert model.chat_prompt(HELLO) == "Hello!"
    model.close()
    override.write_text("{% if %}")
    with pytest.raises(ModelLoadError, match=r"other\.jinja cannot be used: .*line 1"):
        Model(file, template=TemplateChoice(override))


async def test_a_template_that_fails_for_one_conversation_refuses_that_one(
    tmp_path: Path, make_engine: MakeEngine
) -> None:
    template = "{% if messages|length > 1 %}{{ raise_exception('one only') }}{% endif %}Q"
    engine = make_engine(write_byte_level(tmp_path / "m.gguf", template=template))
    turns = (Turn("user", "a"), Turn("assistant", "b"))
    with pytest.raises(InvalidTaskError, match="refuses this: one only"):
        await engine.start(GenerateRequest(Conversation(turns)))
    assert (await engine.generate(GenerateRequest(Conversation(turns[:1]), max_tokens=2))).tokens


async def test_settings_name_the_model_and_its_template_and_a_problem_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write_byte_level(tmp_path / "m.gguf")
    for fields, name, said in (
        ({"name": "qwen2.5:0.5b"}, "qwen2.5:0.5b", "it continues text only"),
        ({"chat_template_fallback": "plain"}, "m", "the fallback template plain is used"),
    ):
        caplog.clear()
        settings = ModelSettings.model_validate({"path": file, "threads": 1, **fields})
        engine = await open_engine(settings, CollectorRegistry())
        assert engine.description.name == name
        assert "has no chat template" in caplog.text
        assert said in caplog.text
        engine.close()
    with pytest.raises(ValueError, match="name"):
        ModelSettings.model_validate({"path": file, "name": "two\nlines"})


async def test_embeddings_can_be_left_out_and_are_counted_otherwise(tmp_path: Path) -> None:
    file = write_byte_level(tmp_path / "m.gguf")
    settings = ModelSettings.model_validate({"path": file, "threads": 1, "embeddings": False})
    engine = await open_engine(settings, CollectorRegistry())
    with pytest.raises(UnsupportedByModelError, match="embeddings: false"):
        await engine.embed(["x"])
    engine.close()
    with_them = settings.model_copy(update={"embeddings": True})
    assert memory_need(with_them).total > memory_need(settings).total


def test_the_doctor_says_what_is_wrong_with_a_template(tmp_path: Path) -> None:
    (reason,) = template_reasons(write_byte_level(tmp_path / "a.gguf", template="{% for %}"))
    assert "line 1" in reason
    assert "chat_template_fallback" in reason
    assert not template_reasons(write_byte_level(tmp_path / "b.gguf", template=MARKED))
    assert not template_reasons(write_bert(tmp_path / "c.gguf"))
