"""The unchanged client of OpenAI, and what it gets."""

import json
import math
import time

import httpx
import openai
import pytest
from gates import Gate
from serving import KEY, PATIENCE_S, Served

MODEL = "airloom-mathematics"
QUESTION = [{"role": "user", "content": "What is 12+25?"}]


def test_models_are_listed_and_looked_up(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).owned_by == "airloom"
    with pytest.raises(openai.NotFoundError, match=f"not served here; served: {MODEL}"):
        client.models.retrieve("gpt-4")


def test_a_chat_is_answered_with_logprobs_and_usage(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=QUESTION, temperature=0, logprobs=True, top_logprobs=2
    )
    (choice,) = answer.choices
    assert choice.message.content.endswith("37")
    assert choice.finish_reason == "stop"
    tokens = choice.logprobs.content
    assert bytes(b for token in tokens for b in token.bytes).decode() == choice.message.content
    for token in tokens:
        assert token.top_logprobs[0].token == token.token
        assert math.exp(token.logprob) <= 1
    assert answer.usage.completion_tokens == len(tokens)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + len(tokens)


def test_a_streamed_chat_says_the_same(client: openai.OpenAI, gate: Gate) -> None:
    whole = client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0)
    gate.shut(after=1)
    stream = client.chat.completions.create(
        model=MODEL, messages=QUESTION, temperature=0, stream=True, logprobs=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    chunks = []
    for chunk in stream:
        chunks.append(chunk)
        # The next token is not made before this one was told.
        gate.let(1)
    assert len(chunks) > 5
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_several_choices_differ_and_a_seed_repeats_them(client: openai.OpenAI) -> None:
    def ask(stream: bool) -> list[str]:
        answer = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "Join: xa xe xi"}],
            n=3, seed=5, temperature=2.0, max_completion_tokens=20, stream=stream,
        )  # fmt: skip
        if not stream:
            return [choice.message.content for choice in answer.choices]
        texts = ["", "", ""]
        for chunk in answer:
            texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
        return texts

    first = ask(stream=False)
    assert len(set(first)) > 1
    assert ask(stream=False) == ask(stream=True) == first


def test_text_completions_take_texts_and_tokens(client: openai.OpenAI, served: Served) -> None:
    prompt = served.chat.engine.model.user_prompt("What is 12+25?")
    tokens = served.chat.engine.model.tokenize(prompt)
    answer = client.completions.create(
        model=MODEL, prompt=[prompt, prompt], temperature=0, max_tokens=60, logprobs=1
    )
    one, two = answer.choices
    assert one.text == two.text
    assert one.text.endswith("37")
    offsets = one.logprobs.text_offset
    assert [one.text[a:b] for a, b in zip(offsets, [*offsets[1:], None], strict=True)] == (
        one.logprobs.tokens
    )
    by_ids = client.completions.create(model=MODEL, prompt=tokens, temperature=0, max_tokens=60)
    assert by_ids.choices[0].text == one.text
    stopped = client.completions.create(
        model=MODEL, prompt=prompt, temperature=0, max_tokens=60, stop=["#", "zz"], stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in stopped) == one.text.partition("#")[0]


def test_a_response_format_is_followed(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"sum": {"type": "string", "pattern": "^[0-9]{2}$"}},
        "required": ["sum"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model=MODEL, messages=QUESTION, seed=1,
        response_format={"type": "json_schema", "json_schema": {"name": "s", "schema": schema}},
    )  # fmt: skip
    assert len(json.loads(answer.choices[0].message.content)["sum"]) == 2
    schema["properties"] = {"sum": {"type": "integer", "maximum": 9}}
    with pytest.raises(openai.BadRequestError, match="'maximum', which cannot be enforced"):
        client.chat.completions.create(
            model=MODEL, messages=QUESTION,
            response_format={"type": "json_schema", "json_schema": {"name": "s", "schema": schema}},
        )  # fmt: skip


def test_embeddings_come_as_numbers_and_as_base64(client: openai.OpenAI) -> None:
    encoded = client.embeddings.create(model=MODEL, input=["one", "two"])
    plain = client.embeddings.create(model=MODEL, input=["one", "two"], encoding_format="float")
    for a, b in zip(encoded.data, plain.data, strict=True):
        assert a.embedding == pytest.approx(b.embedding)
        assert math.fsum(x * x for x in a.embedding) == pytest.approx(1, abs=1e-4)
    with pytest.raises(openai.BadRequestError, match="have 192 dimensions"):
        client.embeddings.create(model=MODEL, input="one", dimensions=7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"messages": [{"role": "user", "content": "7" * 500}]}, "context only 384"),
        ({"temperature": 3}, "temperature"),
        ({"tools": [{"type": "function"}]}, "tools cannot be followed"),
        ({"top_logprobs": 2}, "top_logprobs needs logprobs"),
        ({"logit_bias": {"99999": 1}}, "logit_bias has token 99999"),
        ({"messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "http://x/y.png"}}]}]}, "fetches nothing"),
        ({"messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}]},
         "reads text only"),
        ({"max_tokens": 0}, "max_tokens: Input should be greater than or equal to 1"),
        ({"stop": ["a"] * 100}, "stop: List should have at most 16 items"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]},
         "messages.0.content.0.text.text: Field required"),
        ({"adapters": [{"name": "style"}]}, "no adapter 'style' is loaded"),
    ],
)  # fmt: skip
def test_bad_requests_are_refused_in_openais_form(
    change: dict[str, object], message: str, served: Served
) -> None:
    body = {"model": MODEL, "messages": QUESTION, **change}
    response = httpx.post(
        f"{served.url}/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {KEY}"}
    )
    assert response.status_code == 400
    error = response.json()["error"]
    assert message in error["message"]
    assert error["type"] == "invalid_request_error"


def test_a_body_that_is_no_json_is_refused_with_the_place(served: Served) -> None:
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    url = f"{served.url}/v1/chat/completions"
    answer = httpx.post(url, content=b'{"model": }', headers=headers)
    assert answer.status_code == 400
    message = answer.json()["error"]["message"]
    assert message.startswith("the body is not JSON: ")
    assert message.endswith(" at character 10")


def test_a_wrong_key_is_refused(served: Served) -> None:
    stranger = openai.OpenAI(base_url=f"{served.url}/v1", api_key="other", max_retries=0)
    with pytest.raises(openai.AuthenticationError, match="no valid API key"):
        stranger.models.list()


def test_a_client_that_leaves_frees_its_place(
    client: openai.OpenAI, served: Served, gate: Gate
) -> None:
    outcomes = served.chat.engine.statistics.outcomes
    before = outcomes["CancelledTaskError"]
    for stream in (True, False):
        gate.shut(after=1)
        with pytest.raises(openai.APITimeoutError):
            # Where nothing is streamed, this one waits for what the gate holds.
            patience_s = PATIENCE_S if stream else 0.2
            answer = client.with_options(timeout=patience_s).completions.create(
                model=MODEL, prompt="1+1", max_tokens=370, stream=stream,
                extra_body={"ignore_eos": True},
            )  # fmt: skip
            for _ in answer:
                answer.close()
                raise openai.APITimeoutError(httpx.Request("POST", served.url))
        before += 1
        deadline_s = time.monotonic() + PATIENCE_S
        while outcomes["CancelledTaskError"] < before:
            assert time.monotonic() < deadline_s
            # A pass at a time: what is left alone would be done with its 370 tokens after so many.
            gate.let(1)
            time.sleep(0.05)
    assert outcomes["CancelledTaskError"] == before


def test_metrics_are_in_prometheus_form(client: openai.OpenAI, served: Served) -> None:
    client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0)
    text = httpx.get(f"{served.url}/metrics", headers={"Authorization": f"Bearer {KEY}"}).text
    values = dict(
        line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#")
    )
    assert float(values["airloom_time_to_first_token_seconds_count"]) >= 1
    assert float(values["airloom_time_per_output_token_seconds_sum"]) > 0
    assert float(values["airloom_generation_tokens_total"]) > 10
    assert float(values['airloom_requests_total{outcome="end"}']) >= 1
    assert float(values['airloom_batch_sequences_bucket{le="+Inf"}']) >= float(
        values['airloom_batch_sequences_bucket{le="1.0"}']
    )
    assert httpx.get(f"{served.url}/metrics").status_code == 401
