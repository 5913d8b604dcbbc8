"""The cascade on a real engine: what the device keeps, what the cloud is asked, what a stream says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import httpx
import pytest
from agents import MODELS, Agents, free_port, healthy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airloom.errors import (
    AirloomError,
    CancelledTaskError,
    DeadlineExceededError,
    InvalidTaskError,
    OverloadedError,
    UnreachableError,
    UnsupportedByModelError,
)
from airloom.security import ServerSecurity
from collaboration.routing import RoutingSettings
from device_agent.answering import Answerer
from device_agent.cascade import Cascade
from device_agent.chat import EngineChat
from device_agent.config import AnswerSettings, DeviceSettings, ModelSettings
from device_agent.engine import Engine, EngineSettings, Model, OnText
from protos.airloom.v1 import inference_pb2, inference_pb2_grpc, task_pb2

QUESTION = "What is 12+25?"
TOO_LONG = "7" * 500


@dataclass
class Cloud:
    """A cloud that says what it is told to, and remembers what it was asked."""

    pieces: tuple[str, ...] = ("The ", "sum is 37")
    text: str | None = None
    """Of the result; the pieces together where not said."""
    fails: Exception | None = None
    """After the pieces."""
    refuses: bool = False
    """Ends in an error that the cloud itself wrote."""
    connected: bool = True
    asked: list[task_pb2.Task] = field(default_factory=list)
    deadlines_s: list[float | None] = field(default_factory=list)

    async def ask(
        self, task: task_pb2.Task, deadline_s: float | None, on_text: OnText | None = None
    ) -> task_pb2.TaskResult:
        self.asked.append(task)
        self.deadlines_s.append(deadline_s)
        for piece in self.pieces if on_text is not None else ():
            assert on_text is not None
            await on_text(piece)
        if self.fails is not None:
            raise self.fails
        if self.refuses:
            return task_pb2.TaskResult(error=task_pb2.TaskError(code=3, message="not like that"))
        text = "".join(self.pieces) if self.text is None else self.text
        provenance = task_pb2.Provenance(place=task_pb2.PLACE_CLOUD, model_name="large")
        return task_pb2.TaskResult(answer=task_pb2.Answer(text=text, provenance=provenance))


class Heard:
    """A stream that keeps what counts, and what was said when that changed."""

    def __init__(self) -> None:
        self.text_so_far = ""
        self.reasons: list[str] = []
        self.set_aside_texts: list[str] = []

    async def text(self, text: str) -> None:
        assert text
        self.text_so_far += text

    async def set_aside(self, reason: str) -> None:
        self.reasons.append(reason)
        self.set_aside_texts.append(self.text_so_far)
        self.text_so_far = ""


@pytest.fixture(scope="module")
def chat() -> Iterator[EngineChat]:
    settings = EngineSettings(threads=1, context_tokens=384)
    engine = Engine(Model(MODELS["mathematics"]), settings)
    yield EngineChat(engine)
    engine.close()


@pytest.fixture(scope="module")
def cascade_with(chat: EngineChat) -> Callable[..., Cascade]:
    def make(cloud: Cloud | None, threshold: float = 1.0, **routing: Any) -> Cascade:
        cascade = Cascade(
            DeviceSettings(
                device_id="board",
                listen_security=ServerSecurity(plaintext=True),
                model=ModelSettings(path=MODELS["mathematics"]),
                routing=RoutingSettings(threshold=threshold, **routing),
            ),
            chat,
        )
        cascade.cloud = cloud
        return cascade

    return make


def task_of(text: str = QUESTION, **fields: Any) -> task_pb2.Task:
    return task_pb2.Task(
        task_id="label", parts=[task_pb2.Part(text=task_pb2.TextPart(text=text))], **fields
    )


MakeCascade = Callable[..., Cascade]


async def test_text_that_is_set_aside_is_told_so_and_the_clouds_streams_through(
    cascade_with: MakeCascade,
) -> None:
    cloud, heard = Cloud(), Heard()
    result = await cascade_with(cloud).infer(task_of(), None, heard)
    assert result.answer.text == heard.text_so_far == "The sum is 37"
    (own_text,) = heard.set_aside_texts
    assert own_text.endswith(result.answer.set_aside.answer) and own_text
    assert heard.reasons == [result.answer.escalation_reason]
    assert "below the threshold 1" in result.answer.escalation_reason
    assert not result.answer.fallback_reason


async def test_a_sure_device_asks_nobody(cascade_with: MakeCascade) -> None:
    cloud, heard = Cloud(), Heard()
    result = await cascade_with(cloud, threshold=0.0).infer(task_of(), None, heard)
    assert cloud.asked == heard.reasons == []
    assert result.answer.text == heard.text_so_far
    assert result.answer.finish_reason == task_pb2.FINISH_REASON_END
    assert not result.answer.escalation_reason


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"text": TOO_LONG}, "context only 384"),
        ({"adapters": [task_pb2.AdapterUse(name="style")]}, "no adapter 'style' is loaded"),
    ],
)
async def test_what_the_board_cannot_do_the_cloud_is_asked(
    changes: dict[str, Any], says: str, cascade_with: MakeCascade
) -> None:
    """At any threshold: it is about whether there is an answer, not how sure it is."""
    cloud = Cloud()
    result = await cascade_with(cloud, threshold=0.0).infer(task_of(**changes), None)
    assert result.answer.provenance.place == task_pb2.PLACE_CLOUD
    assert says in result.answer.escalation_reason
    assert not result.answer.HasField("set_aside")


async def test_images_that_the_board_cannot_read_go_up(cascade_with: MakeCascade) -> None:
    task = task_of()
    task.parts.add(image=task_pb2.ImagePart(media_type="image/png", data=b"png"))
    task.parts.add(text=task_pb2.TextPart(text="Add these."))
    cloud = Cloud()
    result = await cascade_with(cloud, threshold=0.0).infer(task, None)
    assert "reads text only" in result.answer.escalation_reason
    assert cloud.asked[0].parts[1].image.data == b"png"


@pytest.mark.parametrize(
    ("error", "goes_up"),
    [
        (OverloadedError("64 requests wait already"), True),
        (UnsupportedByModelError("too long"), True),
        (DeadlineExceededError("late"), True),
        (AirloomError("the engine failed"), True),
        (ValueError("a defect"), True),
        (InvalidTaskError("min_p is 2"), False),
        (CancelledTaskError("shutting down"), False),
    ],
)
async def test_only_refusals_that_another_model_could_mend_go_up(
    error: Exception, goes_up: bool, cascade_with: MakeCascade
) -> None:
    async def own(*_: object) -> task_pb2.TaskResult:
        raise error

    cloud = Cloud()
    asking = cascade_with(cloud).answer_or_ask(task_of(), own, None)
    if goes_up:
        assert (await asking).answer.text == "The sum is 37"
    else:
        with pytest.raises(type(error), match=str(error)):
            await asking
    assert len(cloud.asked) == goes_up


async def test_a_refusal_stands_where_the_cloud_cannot_answer_either(
    cascade_with: MakeCascade,
) -> None:
    cloud = Cloud(fails=UnreachableError("no stream"))
    with pytest.raises(UnsupportedByModelError, match=r"context only 384.*nor.*no stream"):
        await cascade_with(cloud).infer(task_of(TOO_LONG), None)


async def test_what_must_stay_on_the_device_is_refused_there(cascade_with: MakeCascade) -> None:
    cloud = Cloud()
    only_here = task_pb2.Budget(residency=task_pb2.RESIDENCY_DEVICE_ONLY)
    with pytest.raises(UnsupportedByModelError):
        await cascade_with(cloud).infer(task_of(TOO_LONG, budget=only_here), None)
    assert not cloud.asked


async def test_the_callers_key_stays_here_and_its_label_goes_along(
    cascade_with: MakeCascade,
) -> None:
    cloud = Cloud()
    await cascade_with(cloud).infer(task_of(idempotency_key="mine"), None)
    assert (cloud.asked[0].task_id, cloud.asked[0].idempotency_key) == ("label", "")


@pytest.mark.parametrize(("connected", "share"), [(True, 0.25), (False, 0.25), (True, 0.0)])
async def test_the_devices_attempt_leaves_the_cloud_its_share_of_the_time(
    connected: bool, share: float, cascade_with: MakeCascade
) -> None:
    seen: list[float] = []

    async def own(deadline_s: float | None, *_: object) -> task_pb2.TaskResult:
        assert deadline_s is not None
        seen.append(deadline_s)
        raise DeadlineExceededError("late")

    cloud = Cloud(connected=connected)
    before_s = time.monotonic()
    deadline_s = before_s + 1000
    cascade = cascade_with(cloud, cloud_share=share)
    await cascade.answer_or_ask(task_of(), own, deadline_s)
    assert cloud.deadlines_s == [deadline_s]
    if connected and share:
        assert deadline_s - 250 <= seen[0] < deadline_s
    else:
        assert seen == [deadline_s]


async def test_the_cloud_leaves_time_to_tell_an_answer_that_is_there(
    cascade_with: MakeCascade,
) -> None:
    cloud = Cloud(fails=DeadlineExceededError("too slow"))
    deadline_s = time.monotonic() + 1000
    result = await cascade_with(cloud).infer(task_of(), deadline_s)
    assert cloud.deadlines_s == [deadline_s - 1]
    assert result.answer.fallback_reason == "too slow"


async def test_a_caller_that_leaves_takes_its_question_back_from_the_cloud(
    cascade_with: MakeCascade,
) -> None:
    asked, withdrawn = asyncio.Event(), asyncio.Event()

    class Waiting(Cloud):
        async def ask(self, *_: object) -> task_pb2.TaskResult:
            asked.set()
            try:
                return await asyncio.Future[task_pb2.TaskResult]()
            finally:
                withdrawn.set()

    asking = asyncio.ensure_future(cascade_with(Waiting()).infer(task_of(), None))
    await asked.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert withdrawn.is_set()


words = st.lists(st.sampled_from(["The ", "sum", " is ", "37"]), max_size=4).map(tuple)
clouds = st.builds(
    Cloud,
    pieces=words,
    text=st.none() | st.sampled_from(["The sum", "another text", ""]),
    fails=st.none() | st.sampled_from([UnreachableError("lost"), ValueError("a fault")]),
    refuses=st.booleans(),
)


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    cloud=clouds, threshold=st.sampled_from([0.0, 1.0]), text=st.sampled_from([QUESTION, TOO_LONG])
)
def test_what_a_stream_says_after_the_last_set_aside_is_the_answer(
    cloud: Cloud, threshold: float, text: str, cascade_with: MakeCascade
) -> None:
    """Whatever the cloud says before it answers, fails or answers something else."""

    async def law() -> None:
        heard = Heard()
        fails = cloud.fails is not None or cloud.refuses
        cascade = cascade_with(cloud, threshold)
        if text == TOO_LONG and fails:
            with pytest.raises(UnsupportedByModelError):
                await cascade.infer(task_of(text), None, heard)
            return
        result = await cascade.infer(task_of(text), None, heard)
        assert heard.text_so_far == result.answer.text
        from_cloud = result.answer.provenance.place == task_pb2.PLACE_CLOUD
        assert from_cloud == (not fails and (threshold == 1.0 or text == TOO_LONG))
        assert bool(result.answer.fallback_reason) == (fails and threshold == 1.0)

    asyncio.run(law())


def conversation(*turns: tuple[str, str]) -> list[task_pb2.ChatMessage]:
    return [
        task_pb2.ChatMessage(role=role, parts=[task_pb2.Part(text=task_pb2.TextPart(text=text))])
        for role, text in turns
    ]


def answerer_of(chat: EngineChat) -> Answerer:
    return Answerer(
        chat,
        AnswerSettings(instruction="End with #### and the answer."),
        agent_id="cloud",
        place=task_pb2.PLACE_CLOUD,
        measure="sequence_probability",
    )


async def test_a_conversation_is_continued_as_it_stands(chat: EngineChat) -> None:
    turns = conversation(("user", "What is 3+4?"), ("assistant", "7"), ("user", QUESTION))
    answerer = answerer_of(chat)
    request = answerer.chat_request(task_pb2.Task(messages=turns), None)
    said = [(message.role, message.text) for message in request.messages]
    assert said == [("user", "What is 3+4?"), ("assistant", "7"), ("user", QUESTION)]
    asked = answerer.chat_request(task_of(), None)
    assert asked.messages[0].text.endswith("\nEnd with #### and the answer.")
    alone = task_pb2.Task(messages=conversation(("user", QUESTION)))
    assert (await answerer.answer(alone, None)).answer.final_answer == "37"


@pytest.mark.parametrize(
    ("task", "says"),
    [
        (
            task_pb2.Task(parts=task_of().parts, messages=conversation(("user", "a"))),
            "parts and messages exclude each other",
        ),
        (task_pb2.Task(messages=conversation(("tool", "a"))), r"messages\[0\].role is 'tool'"),
        (task_pb2.Task(messages=conversation(("user", " "))), "messages has no text"),
        (
            task_pb2.Task(
                messages=[
                    task_pb2.ChatMessage(role="user", parts=[task_pb2.Part(vote=task_pb2.Vote())])
                ]
            ),
            r"messages\[0\].parts\[0\] is vote",
        ),
    ],
)
def test_what_is_no_conversation_is_refused_by_name(
    task: task_pb2.Task, says: str, chat: EngineChat
) -> None:
    with pytest.raises(InvalidTaskError, match=says):
        answerer_of(chat).chat_request(task, None)


async def test_both_apis_reach_a_real_cloud_and_tell_what_was_set_aside(agents: Agents) -> None:
    folder, port, http_port = agents.folder, free_port(), free_port()
    plaintext = {"plaintext": True}
    cloud = {
        "listen": f"127.0.0.1:{port}",
        "security": {"plaintext": True, "trust_names": True},
        "model": {"path": str(MODELS["cloud"]), "threads": 1},
    }
    board = {
        "device_id": "board",
        "listen": f"unix:{folder}/board.sock",
        "listen_security": plaintext,
        "model": {"path": str(MODELS["mathematics"]), "threads": 1},
        "routing": {"threshold": 1.0},
        "cloud": {"address": f"127.0.0.1:{port}", "security": plaintext, "backoff_max_s": 0.3},
        "http": {"listen": f"127.0.0.1:{http_port}", "security": plaintext},
    }
    await agents.start("cloud", "cloud", cloud)
    await agents.start("device", "board", board)
    await healthy(f"127.0.0.1:{port}")
    await healthy(f"unix:{folder}/board.sock")
    # The deadline is the time in which the stream to the cloud has to be there.
    task = task_of(budget=task_pb2.Budget(deadline_ms=60_000))
    async with grpc.aio.insecure_channel(f"unix:{folder}/board.sock") as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        request = inference_pb2.InferStreamRequest(task=task)
        events = [event async for event in stub.InferStream(request, timeout=60)]
    answer = events[-1].result.answer
    assert answer.provenance.place == task_pb2.PLACE_CLOUD
    kinds = [event.WhichOneof("event") for event in events]
    (change,) = [index for index, kind in enumerate(kinds) if kind == "set_aside"]
    assert "".join(event.text for event in events[:change]).endswith(answer.set_aside.answer)
    assert "".join(event.text for event in events[change:-1]) == answer.text
    assert events[change].set_aside.reason == answer.escalation_reason
    url = f"http://127.0.0.1:{http_port}/v1/chat/completions"
    messages = [{"role": "user", "content": QUESTION}]
    body = {"model": "airloom-mathematics", "messages": messages, "temperature": 0}
    async with httpx.AsyncClient(timeout=60) as client:
        reply = await client.post(url, json=body)
    assert reply.headers["airloom-model"] == "airloom-cloud"
    assert reply.json()["choices"][0]["message"]["content"].endswith("37")
