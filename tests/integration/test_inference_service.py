"""The gRPC service in full, on device agents of this process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from agents import MODELS, PATIENCE_S, device_here
from gates import Gate

from protos.airloom.v1 import inference_pb2, inference_pb2_grpc, task_pb2

PLAINTEXT = {"plaintext": True}


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def board(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Any]:
    async with serving(tmp_path_factory.mktemp("board"), "board") as stub:
        yield stub


@contextlib.asynccontextmanager
async def serving(folder: Path, name: str, **model: Any) -> AsyncIterator[Any]:
    settings = {
        "device_id": name,
        "listen": f"unix:{folder}/{name}.sock",
        "listen_security": PLAINTEXT,
        "model": {
            "path": str(MODELS["mathematics"]), "threads": 1, "stream_interval_ms": 0, **model
        },
    }  # fmt: skip
    async with (
        device_here(settings),
        grpc.aio.insecure_channel(settings["listen"]) as channel,
    ):
        yield inference_pb2_grpc.InferenceServiceStub(channel)


def task(text: str, task_id: str = "t", **sampling: Any) -> task_pb2.Task:
    return task_pb2.Task(
        task_id=task_id,
        parts=[task_pb2.Part(text=task_pb2.TextPart(text=text))],
        sampling=task_pb2.Sampling(**sampling),
    )


async def test_a_batch_is_answered_side_by_side_and_one_failure_spares_the_others(
    board: Any,
) -> None:
    tasks = [task(f"What is {n}+25?", str(n)) for n in range(11, 15)]
    tasks.append(task("7" * 1000, "long"))
    request = inference_pb2.InferBatchRequest(tasks=tasks)
    results = {
        r.result.task_id: r.result async for r in board.InferBatch(request, timeout=PATIENCE_S)
    }
    assert {t.task_id for t in tasks} == results.keys()
    for n in range(11, 15):
        assert results[str(n)].answer.final_answer == str(n + 25)
    assert results["long"].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]


@pytest.mark.parametrize(
    ("sampling", "field"),
    [
        ({"top_p": 0.0, "temperature": 1.0}, "top_p is 0"),
        ({"min_p": 2.0, "temperature": 1.0}, "min_p is 2"),
        ({"temperature": math.nan, "top_k": 3}, "temperature is nan"),
        ({"temperature": math.inf}, "temperature is inf"),
        ({"min_p": -0.5}, "min_p is -0.5"),
        ({"stop": [""]}, r"stop\[0\] has 0 characters"),
        ({"stop": ["x" * 1000]}, r"stop\[0\] has 1,000 characters"),
        ({"max_tokens": 2**32 - 1}, "max_tokens is 4294967295"),
        (
            {"json_schema": json.dumps({"type": "string", "pattern": "^((a?b?c?){200}){10}$"})},
            r"the JSON schema at \$\.pattern has more than 4,096 elements",
        ),
        ({"grammar": "root ::= " + "(" * 60_000 + '"a"' + ")" * 60_000}, "more than 4,096 parenth"),
    ],
)
async def test_a_value_out_of_its_range_is_named_and_the_engine_goes_on(
    board: Any, sampling: dict[str, Any], field: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match=field) as error:
        await board.Infer(
            inference_pb2.InferRequest(task=task("1+1", **sampling)), timeout=PATIENCE_S
        )
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    reply = await board.Infer(
        inference_pb2.InferRequest(task=task("What is 12+25?")), timeout=PATIENCE_S
    )
    assert reply.result.answer.final_answer == "37"


async def test_text_streams_before_the_result(board: Any) -> None:
    request = inference_pb2.InferStreamRequest(task=task("What is 12+25?"))
    events = [event async for event in board.InferStream(request, timeout=PATIENCE_S)]
    assert events[0].started.run_id
    assert all(event.HasField("text") for event in events[1:-1])
    assert "".join(event.text for event in events[:-1]) == events[-1].result.answer.text


async def test_an_answer_follows_a_schema(board: Any) -> None:
    schema = {
        "type": "object",
        "properties": {"sum": {"type": "string", "pattern": "^[0-9]{2}$"}},
        "required": ["sum"],
        "additionalProperties": False,
    }
    request = inference_pb2.InferRequest(
        task=task("What is 12+25?", json_schema=json.dumps(schema))
    )
    reply = await board.Infer(request, timeout=PATIENCE_S)
    assert len(json.loads(reply.result.answer.text)["sum"]) == 2
    wrong = inference_pb2.InferRequest(task=task("What is 12+25?", json_schema="[1,"))
    with pytest.raises(grpc.aio.AioRpcError, match="json_schema"):
        await board.Infer(wrong, timeout=PATIENCE_S)


async def test_texts_are_embedded_and_tokenised(board: Any) -> None:
    reply = await board.Embed(inference_pb2.EmbedRequest(texts=["one", "two"]), timeout=PATIENCE_S)
    assert [len(one.values) for one in reply.embeddings] == [192, 192]
    text = "naïve ✓"
    reply = await board.Tokenize(inference_pb2.TokenizeRequest(text=text), timeout=PATIENCE_S)
    assert b"".join(reply.pieces).decode() == text
    assert len(reply.token_ids) == len(reply.pieces)


async def test_models_and_adapters_are_listed(board: Any) -> None:
    models = await board.ListModels(inference_pb2.ListModelsRequest(), timeout=PATIENCE_S)
    described = await board.DescribeModel(inference_pb2.DescribeModelRequest(), timeout=PATIENCE_S)
    assert list(models.models) == [described.model]
    assert not described.model.reads_images
    adapters = await board.ListAdapters(inference_pb2.ListAdaptersRequest(), timeout=PATIENCE_S)
    assert list(adapters.adapters) == []
    asked = task("What is 12+25?")
    asked.adapters.add(name="style")
    with pytest.raises(grpc.aio.AioRpcError, match="no adapter 'style' is loaded; loaded: none"):
        await board.Infer(inference_pb2.InferRequest(task=asked), timeout=PATIENCE_S)


async def test_an_image_for_a_text_model_is_refused_in_words(board: Any) -> None:
    asked = task("What is this?")
    asked.parts.add(image=task_pb2.ImagePart(media_type="image/png", data=b"png"))
    with pytest.raises(grpc.aio.AioRpcError, match="reads text only: no projector"):
        await board.Infer(inference_pb2.InferRequest(task=asked), timeout=PATIENCE_S)


async def test_a_running_task_moves_to_another_board(
    board: Any, tmp_path: Path, gate: Gate
) -> None:
    asked = task("What is 12+25?", "moving", max_tokens=10)
    asked.sampling.grammar = "root ::= [0-9]{300}"
    asked.sampling.max_tokens = 320
    whole = await board.Infer(inference_pb2.InferRequest(task=asked), timeout=PATIENCE_S)
    gate.shut(after=20)
    running = board.InferStream(inference_pb2.InferStreamRequest(task=asked), timeout=PATIENCE_S)
    assert (await running.read()).started.run_id
    assert (await running.read()).text
    suspend = board.Suspend(inference_pb2.SuspendRequest(task_id="moving"), timeout=PATIENCE_S)

    async def state() -> list[bytes]:
        return [reply.chunk async for reply in suspend]

    leaving = asyncio.ensure_future(state())
    while not leaving.done():
        # It leaves before its next pass.
        await asyncio.sleep(0.01)
        gate.let(1)
    gate.open()
    chunks = await leaving
    with pytest.raises(grpc.aio.AioRpcError, match="handed over"):
        while await running.read() is not grpc.aio.EOF:
            pass

    async def parts() -> AsyncIterator[inference_pb2.ResumeRequest]:
        for chunk in chunks:
            yield inference_pb2.ResumeRequest(task_id="moving", chunk=chunk)

    async with serving(tmp_path, "other", parallel=2) as other:
        events = [event async for event in other.Resume(parts(), timeout=PATIENCE_S)]
        assert events[0].started.run_id
        result = events[-1].result
        rest = "".join(event.text for event in events[:-1])
        assert result.answer.text == whole.result.answer.text
        assert 0 < len(rest) < 300
        assert result.answer.text.endswith(rest)
        assert result.answer.provenance.agent_id == "other"
        with pytest.raises(
            grpc.aio.AioRpcError, match="no run 'moving' of local is under way here"
        ):
            again = other.Suspend(
                inference_pb2.SuspendRequest(task_id="moving"), timeout=PATIENCE_S
            )
            await again.read()


async def test_many_callers_at_once_get_their_own_answers(board: Any) -> None:
    async def ask(a: int, b: int) -> None:
        asked = task(f"What is {a}+{b}?", f"{a}+{b}")
        reply = await board.Infer(inference_pb2.InferRequest(task=asked), timeout=PATIENCE_S)
        assert reply.result.task_id == asked.task_id
        assert reply.result.answer.final_answer == str(a + b)

    await asyncio.gather(*(ask(a, b) for a in range(20, 26) for b in range(40, 45)))
