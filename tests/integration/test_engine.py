"""The engine on the shipped models."""

import asyncio
import time
from pathlib import Path

import pytest
from agents import MODELS

from device_agent.engine import Engine, GenerateRequest, Model
from protos.errors import (
    CancelledTaskError,
    DeadlineExceededError,
    InvalidTaskError,
    ModelLoadError,
    OverloadedError,
)

QUESTION = "What is 12+25?"


def make_engine(queue_length: int = 64) -> Engine:
    return Engine(Model(MODELS["mathematics"], threads=1), queue_length=queue_length)


async def test_greedy_generation_repeats_itself_and_scores_every_token() -> None:
    engine = make_engine()
    request = GenerateRequest(engine.chat_prompt(QUESTION))
    pieces: list[str] = []
    first = await engine.generate(request, pieces.append)
    second = await engine.generate(request)
    assert first.tokens == second.tokens
    assert "".join(pieces) == first.text
    assert len(first.logprobs) == len(first.tokens) > 0
    assert all(logprob <= 0 for logprob in first.logprobs)
    assert 0 <= first.confidence.sequence_probability <= 1
    assert first.finished
    await asyncio.to_thread(engine.close)


async def test_sampling_depends_on_the_seed_alone() -> None:
    engine = make_engine()
    prompt = engine.chat_prompt("Join the last letters of: xa xe xi xo")

    async def texts(seed: int) -> list[str]:
        request = GenerateRequest(prompt, temperature=2.0, seed=seed, max_tokens=30)
        return [(await engine.generate(request)).text for _ in range(2)]

    one, again = await texts(1)
    other, _ = await texts(2)
    assert one == again != other
    await asyncio.to_thread(engine.close)


async def test_a_stop_string_ends_the_text_before_it() -> None:
    engine = make_engine()
    prompt = engine.chat_prompt(QUESTION)
    whole = (await engine.generate(GenerateRequest(prompt))).text
    cut = await engine.generate(GenerateRequest(prompt, stop=("####",)))
    assert cut.text == whole.partition("####")[0]
    await asyncio.to_thread(engine.close)


async def test_a_deadline_reaches_the_decode_loop() -> None:
    engine = make_engine()
    prompt = engine.chat_prompt(QUESTION)
    with pytest.raises(DeadlineExceededError):
        await engine.generate(GenerateRequest(prompt, deadline_s=time.monotonic()))
    assert (await engine.generate(GenerateRequest(prompt))).text
    await asyncio.to_thread(engine.close)


async def test_cancelling_stops_the_decode_loop_and_frees_it_for_the_next() -> None:
    engine = make_engine()
    prompt = engine.chat_prompt(QUESTION)
    started = asyncio.Event()
    seen: list[str] = []

    def on_text(text: str) -> None:
        seen.append(text)
        started.set()

    long = GenerateRequest(prompt, temperature=50.0, max_tokens=10_000)
    task = asyncio.create_task(engine.generate(long, on_text))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await engine.generate(GenerateRequest(prompt))).finished
    await asyncio.to_thread(engine.close)


async def test_a_full_queue_refuses_and_closing_answers_everybody() -> None:
    engine = make_engine(queue_length=2)
    prompt = engine.chat_prompt(QUESTION)
    long = GenerateRequest(prompt, temperature=50.0, max_tokens=10_000)
    tasks = [asyncio.create_task(engine.generate(long)) for _ in range(12)]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    assert any(isinstance(task.exception(), OverloadedError) for task in done)
    await asyncio.to_thread(engine.close)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(r, OverloadedError | CancelledTaskError) or r.text for r in results)
    with pytest.raises(CancelledTaskError):
        await engine.generate(long)


async def test_a_prompt_longer_than_the_context_is_refused_with_both_numbers() -> None:
    engine = make_engine()
    with pytest.raises(InvalidTaskError, match=r"tokens, the model's context only 384"):
        await engine.generate(GenerateRequest("7" * 500))
    await asyncio.to_thread(engine.close)


@pytest.mark.parametrize("kept", [3, 100, 20_000, 1_000_000])
def test_a_truncated_model_is_refused_by_name(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(MODELS["mathematics"].read_bytes()[:kept])
    with pytest.raises(ModelLoadError, match=r"cut\.gguf.*(GGUF|loaded)"):
        Model(path, threads=1)


def test_a_missing_model_and_a_wrong_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="no such model file"):
        Model(tmp_path / "none.gguf", threads=1)
    wrong = tmp_path / "wrong.gguf"
    wrong.write_text("not a model")
    with pytest.raises(ModelLoadError, match="not a GGUF file"):
        Model(wrong, threads=1)


@pytest.mark.parametrize("name", MODELS)
def test_every_shipped_model_tokenises_and_detokenises(name: str) -> None:
    model = Model(MODELS[name], threads=1)
    text = "Q: Is it 42? — naïve ✓\nA: "
    tokens = model.tokenize(text, add_special=False)
    assert b"".join(model.piece(token) for token in tokens).decode() == text
    model.close()


def test_one_model_has_another_vocabulary() -> None:
    sizes = {}
    for name, path in MODELS.items():
        model = Model(path, threads=1)
        sizes[name] = model.vocabulary_size
        model.close()
    assert len(set(sizes.values())) == 2
    assert sizes["mathematics"] == sizes["symbolic"] == sizes["cloud"]
