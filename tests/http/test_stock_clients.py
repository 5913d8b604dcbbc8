"""Requests as clients of llama-server, vLLM and OpenAI send them: taken, and what is ignored named."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from serving import KEY, MODEL, Served

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "What is 12+25?"}]}

LLAMA_SERVER = {
    "cache_prompt": True, "n_keep": 0, "mirostat": 0, "mirostat_tau": 5.0, "id_slot": -1,
    "seed": -1, "top_k": 0, "min_p": 0.05, "repeat_penalty": 1.1, "max_tokens": -1,
    "samplers": ["top_k", "temperature"], "timings_per_token": False, "stop": None,
}  # fmt: skip
VLLM = {
    "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "skip_special_tokens": True,
    "stop": [], "seed": None, "max_tokens": None, "add_generation_prompt": True,
}  # fmt: skip
OPENAI = {
    "user": "u-1", "store": False, "metadata": {"a": "b"}, "max_completion_tokens": 60,
    "stream_options": None, "stream": False, "service_tier": "auto", "tools": [], "n": None,
    "tool_choice": "none", "temperature": None, "top_p": None, "logit_bias": None,
    "frequency_penalty": None, "presence_penalty": None, "response_format": None,
}  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "ignored"),
    [
        (
            LLAMA_SERVER,
            "cache_prompt, n_keep, mirostat, mirostat_tau, id_slot, repeat_penalty, samplers, "
            "timings_per_token",
        ),
        (VLLM, "repetition_penalty, skip_special_tokens, add_generation_prompt"),
        (OPENAI, "user, store, metadata, service_tier, tools, tool_choice"),
        ({"max_tokens": 20, "stream_options": {"include_usage": True}}, None),
    ],
    ids=["llama-server", "vllm", "openai", "known"],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_fields_without_a_meaning_here_are_ignored_and_named(
    fields: dict[str, Any], ignored: str | None, streamed: bool, served: Served
) -> None:
    answer = served.post("/v1/chat/completions", {**CHAT, **fields, "stream": streamed})
    assert answer.status_code == 200, answer.text
    assert answer.headers.get("airloom-ignored-fields") == ignored


def test_ignored_fields_within_others_are_named_by_their_place(served: Served) -> None:
    url = {"url": "data:image/png;base64,AAAA", "detail": "low"}
    parts = [{"type": "text", "text": "What is 1+2?", "cache_control": {}}]
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "name": "ann", "content": parts}] * 3,
        "stream_options": {"include_obfuscation": True},
    }
    answer = served.post("/v1/chat/completions", body)
    named = answer.headers["airloom-ignored-fields"].split(", ")
    assert sorted(named) == [
        "messages[].content[].cache_control",
        "messages[].name",
        "stream_options.include_obfuscation",
    ]
    body["messages"] = [{"role": "user", "content": [{"type": "image_url", "image_url": url}]}]
    assert "reads text only" in served.post("/v1/chat/completions", body).text


def test_names_of_ignored_fields_are_bounded_and_cannot_write_headers(served: Served) -> None:
    fields = {f"a\r\nSet-Cookie: {i}é" + "x" * 1000: i for i in range(100)}
    answer = served.post("/v1/embeddings", {"model": MODEL, "input": "a", **fields})
    assert "set-cookie" not in answer.headers
    named = answer.headers["airloom-ignored-fields"]
    assert named.startswith("a%0D%0ASet-Cookie: 0%C3%A9xxx")
    assert len(named) < 2000
    assert len(named.split(", ")) == 20


@pytest.mark.parametrize(
    ("path", "fields", "says"),
    [
        ("chat/completions", {"max_tokens": 0}, "max_tokens"),
        ("chat/completions", {"max_tokens": "9"}, "max_tokens"),
        ("chat/completions", {"max_tokens": -2}, "max_tokens"),
        ("chat/completions", {"seed": -2}, "seed"),
        ("chat/completions", {"seed": 1.5}, "seed"),
        ("chat/completions", {"top_k": -2}, "top_k"),
        ("chat/completions", {"top_p": 0}, "top_p"),
        ("chat/completions", {"min_p": 2}, "min_p"),
        ("chat/completions", {"stream": "yes"}, "stream"),
        ("chat/completions", {"stream_options": {"include_usage": 1}}, "stream_options"),
        ("chat/completions", {"grammar": 'root ::= "a"'}, "grammar cannot be followed"),
        ("chat/completions", {"guided_choice": ["a"]}, "guided_choice cannot be followed"),
        ("chat/completions", {"messages": [{"role": "tool", "content": ""}]}, "messages.0.role"),
        ("completions", {"prompt": 5}, "prompt"),
        ("completions", {"prompt": "a", "echo": True}, "echo"),
        ("completions", {"prompt": "a", "suffix": "b"}, "suffix"),
        ("embeddings", {"input": []}, "input"),
    ],
)
def test_known_fields_are_still_checked_by_name(
    path: str, fields: dict[str, Any], says: str, served: Served
) -> None:
    body = {**CHAT, **fields} if path == "chat/completions" else {"model": MODEL, **fields}
    answer = served.post(f"/v1/{path}", body)
    assert answer.status_code == 400
    assert says in answer.json()["error"]["message"]


def test_without_a_seed_each_answer_is_drawn_anew(served: Served) -> None:
    body = {"model": MODEL, "prompt": "a", "temperature": 2, "max_tokens": 40}
    answers = [served.post("/v1/completions", {**body, "seed": -1}).json() for _ in range(2)]
    assert answers[0]["choices"][0]["text"] != answers[1]["choices"][0]["text"]


def test_a_fault_is_answered_as_one_and_its_request_writes_no_lines_of_the_log(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(type(served.chat.engine), "embed", None)
    with caplog.at_level(logging.DEBUG):
        answer = served.post("/v1/embeddings?a=%0Aforged", {"model": MODEL, "input": "a"})
        served.post("/v1/models/a%0Aforged", {})
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"
    assert "POST /v1/embeddings failed" in caplog.text
    assert not any(record.getMessage().startswith("forged") for record in caplog.records)
    assert KEY not in caplog.text
