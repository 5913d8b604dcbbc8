"""OpenAI's endpoints with the cascade behind them: what the cloud is asked, and what clients get."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import openai
import pytest
from gates import Gate
from prometheus_client import CollectorRegistry
from serving import KEY, MODEL, MODELS, PATIENCE_S, PLAINTEXT, Serve, Served

from airloom.errors import UnreachableError
from device_agent.cascade import Cascade
from device_agent.chat import EngineChat
from device_agent.config import DeviceSettings
from device_agent.engine import Engine, EngineSettings, Model, OnText
from device_agent.http.app import create_app
from device_agent.http.settings import HttpSecurity, HttpSettings
from protos.airloom.v1 import task_pb2

QUESTION = [{"role": "user", "content": "What is 12+25?"}]
TOO_LONG = [{"role": "user", "content": "7" * 500}]
CHAT = "/v1/chat/completions"
PIXEL = "data:image/png;base64,AAAA"


@dataclass
class Cloud:
    """Says these pieces, then fails where it should."""

    pieces: tuple[str, ...] = ("The ", "sum is 37")
    fails: Exception | None = None
    connected: bool = True
    asked: list[task_pb2.Task] = field(default_factory=list)

    async def ask(
        self, task: task_pb2.Task, _: float | None, on_text: OnText | None = None
    ) -> task_pb2.TaskResult:
        self.asked.append(task)
        for piece in self.pieces if on_text is not None else ():
            assert on_text is not None
            await on_text(piece)
        if self.fails is not None:
            raise self.fails
        return task_pb2.TaskResult(
            answer=task_pb2.Answer(
                text="".join(self.pieces),
                provenance=task_pb2.Provenance(
                    place=task_pb2.PLACE_CLOUD, model_name="large", model_sha256="ab" * 32
                ),
                usage=task_pb2.Usage(prompt_tokens=100, completion_tokens=7),
                finish_reason=task_pb2.FINISH_REASON_LENGTH,
            )
        )


ServeWith = Callable[..., Served]


@pytest.fixture
def serve_with(serve: Serve, chat: EngineChat) -> ServeWith:
    """A server whose cascade has this cloud."""

    def start(cloud: Cloud, threshold: float = 1.0) -> Served:
        settings = {
            "device_id": "board",
            "listen_security": PLAINTEXT,
            "model": {"path": MODELS["mathematics"]},
            "routing": {"threshold": threshold},
        }
        cascade = Cascade(DeviceSettings.model_validate(settings), chat)
        cascade.cloud = cloud
        return serve(cascade=cascade)

    return start


def client_of(served: Served) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{served.url}/v1", api_key=KEY, max_retries=0, timeout=PATIENCE_S
    )


def texts_of(stream: Any) -> list[str]:
    return [
        chunk.choices[0].delta.content
        for chunk in stream
        if chunk.choices and chunk.choices[0].delta.content
    ]


def test_an_unsure_boards_question_is_answered_by_the_cloud(serve_with: ServeWith) -> None:
    cloud = Cloud()
    client = client_of(serve_with(cloud))
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=QUESTION, temperature=0
    )
    assert (raw.headers["airloom-place"], raw.headers["airloom-model"]) == ("cloud", "large")
    answer = raw.parse()
    assert answer.choices[0].message.content == "The sum is 37"
    assert answer.choices[0].finish_reason == "length"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (100, 7)
    assert answer.system_fingerprint == "airloom-abababababab"


def test_a_sure_board_answers_by_itself_and_says_so(serve_with: ServeWith) -> None:
    cloud = Cloud()
    client = client_of(serve_with(cloud, threshold=0.0))
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=QUESTION, temperature=0
    )
    assert (raw.headers["airloom-place"], raw.headers["airloom-model"]) == ("device", MODEL)
    assert raw.parse().choices[0].message.content.endswith("37")
    assert not cloud.asked


def test_the_conversation_goes_up_as_it_stands(serve_with: ServeWith) -> None:
    cloud = Cloud()
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "What is 3+4?"},
        {"role": "assistant", "content": "7"},
        {"role": "user", "content": [
            {"type": "text", "text": "And this?"},
            {"type": "image_url", "image_url": {"url": PIXEL}}]},
    ]  # fmt: skip
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    body = {
        "model": MODEL, "messages": messages, "temperature": 0.5, "top_p": 0.75, "seed": 3,
        "stop": ["#"], "max_tokens": 9, "frequency_penalty": 0.5, "presence_penalty": -0.5,
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}},
    }  # fmt: skip
    answer = serve_with(cloud).post(CHAT, body)
    assert answer.json()["choices"][0]["message"]["content"] == "The sum is 37"
    (task,) = cloud.asked
    assert [message.role for message in task.messages] == ["system", "user", "assistant", "user"]
    text, image = task.messages[3].parts
    assert (text.text.text, image.image.data) == ("And this?", b"\x00\x00\x00")
    sampling = task.sampling
    assert (sampling.temperature, sampling.top_p, sampling.seed) == (0.5, 0.75, 3)
    assert (sampling.frequency_penalty, sampling.presence_penalty) == (0.5, -0.5)
    assert (list(sampling.stop), sampling.max_tokens) == (["#"], 9)
    assert json.loads(sampling.json_schema) == schema


def test_a_text_prompt_goes_up_as_a_users_message(serve_with: ServeWith) -> None:
    cloud = Cloud()
    client = client_of(serve_with(cloud))
    answer = client.completions.create(model=MODEL, prompt="12+25", temperature=0)
    assert answer.choices[0].text == "The sum is 37"
    (message,) = cloud.asked[0].messages
    assert (message.role, message.parts[0].text.text) == ("user", "12+25")
    assert cloud.asked[0].sampling.max_tokens == 16


@pytest.mark.parametrize(
    "only_here",
    [
        {"n": 2},
        {"logprobs": True},
        {"logit_bias": {"5": 1}},
        {"ignore_eos": True, "max_tokens": 5},
    ],
)
def test_what_only_the_board_can_do_stays_there(
    only_here: dict[str, Any], serve_with: ServeWith
) -> None:
    cloud = Cloud()
    answer = serve_with(cloud).post(CHAT, {"model": MODEL, "messages": QUESTION, **only_here})
    assert (answer.status_code, answer.headers["airloom-place"]) == (200, "device")
    assert not cloud.asked


def test_a_request_may_ask_for_the_board_alone(serve_with: ServeWith) -> None:
    cloud = Cloud()
    served = serve_with(cloud)
    body = {"model": MODEL, "messages": QUESTION}
    here = served.post(CHAT, body, airloom_residency="device-only")
    assert here.headers["airloom-place"] == "device"
    refused = served.post(CHAT, {**body, "messages": TOO_LONG}, airloom_residency="device-only")
    assert refused.status_code == 400
    assert not cloud.asked
    wrong = served.post(CHAT, body, airloom_residency="europe")
    assert wrong.status_code == 400
    assert (
        "airloom-residency: Input should be 'device-only' or 'anywhere'"
        in (wrong.json()["error"]["message"])
    )


async def test_a_clouds_own_server_says_so_and_takes_nothing_that_is_for_devices() -> None:
    engine = Engine(Model(MODELS["mathematics"]), EngineSettings(threads=1))
    settings = HttpSettings(listen="127.0.0.1:1", security=HttpSecurity(plaintext=True))
    app = create_app(EngineChat(engine), CollectorRegistry(), settings, place="cloud")
    body = {"model": engine.description.name, "messages": QUESTION, "max_tokens": 2}
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://cloud") as client:
        answered = await client.post(CHAT, json=body)
        assert answered.headers["airloom-place"] == "cloud"
        only = {"airloom-residency": "device-only"}
        refused = await client.post(CHAT, json=body, headers=only)
        assert refused.status_code == 400
        assert "this is a cloud's server" in refused.json()["error"]["message"]
    await asyncio.to_thread(engine.close)


def test_a_stream_holds_its_text_until_it_counts(serve_with: ServeWith) -> None:
    """OpenAI's streams cannot take anything back: only one model's text may be in them."""
    stream = client_of(serve_with(Cloud())).chat.completions.create(
        model=MODEL, messages=QUESTION, stream=True, stream_options={"include_usage": True}
    )
    assert stream.response.headers["airloom-place"] == "cloud"
    chunks = list(stream)
    assert texts_of(chunks) == ["The ", "sum is 37"]
    assert chunks[-1].usage.completion_tokens == 7
    assert chunks[-2].choices[0].finish_reason == "length"


@pytest.mark.parametrize("streamed", [False, True])
def test_the_boards_answer_is_told_whole_where_the_cloud_cannot_be_asked(
    streamed: bool, serve_with: ServeWith
) -> None:
    cloud = Cloud(pieces=(), fails=UnreachableError("no stream"))
    client = client_of(serve_with(cloud))
    answer = client.chat.completions.create(
        model=MODEL, messages=QUESTION, temperature=0, stream=streamed
    )
    text = "".join(texts_of(answer)) if streamed else answer.choices[0].message.content
    assert text.endswith("37")
    assert len(cloud.asked) == 1


def test_a_stream_whose_cloud_is_lost_midway_ends_in_an_error(serve_with: ServeWith) -> None:
    cloud = Cloud(fails=UnreachableError("lost"))
    stream = client_of(serve_with(cloud)).chat.completions.create(
        model=MODEL, messages=QUESTION, stream=True
    )
    with pytest.raises(openai.APIError, match="does not count"):
        texts_of(stream)


def test_where_the_board_keeps_all_its_text_streams_at_once(
    serve_with: ServeWith, gate: Gate
) -> None:
    gate.shut(after=1)
    stream = client_of(serve_with(Cloud(), threshold=0.0)).chat.completions.create(
        model=MODEL, messages=QUESTION, temperature=0, stream=True
    )
    pieces = []
    for chunk in stream:
        pieces += texts_of([chunk])
        # The next token is not made before this one was told.
        gate.let(1)
    assert len(pieces) > 5
    assert "".join(pieces).endswith("37")


@pytest.mark.parametrize("streamed", [False, True])
def test_what_is_too_long_for_the_board_the_cloud_answers(
    streamed: bool, serve_with: ServeWith
) -> None:
    client = client_of(serve_with(Cloud(), threshold=0.0))
    answer = client.chat.completions.create(model=MODEL, messages=TOO_LONG, stream=streamed)
    text = "".join(texts_of(answer)) if streamed else answer.choices[0].message.content
    assert text == "The sum is 37"


@pytest.mark.parametrize("streamed", [False, True])
def test_what_nobody_can_answer_is_refused_with_its_status(
    streamed: bool, serve_with: ServeWith
) -> None:
    served = serve_with(Cloud(pieces=(), fails=UnreachableError("no stream")))
    body = {"model": MODEL, "messages": TOO_LONG, "stream": streamed}
    answer = served.post(CHAT, body)
    assert answer.status_code == 400
    assert "context only 384" in answer.json()["error"]["message"]
