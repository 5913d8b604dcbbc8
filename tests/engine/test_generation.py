"""One request: what comes out, and what ends it."""

import asyncio
import contextlib
import gc
import json
import weakref
from itertools import pairwise

import llama_cpp
import pytest
from engines import MODELS, Clock, Gate, MakeEngine
from hypothesis import given, settings
from hypothesis import strategies as st

from airloom.errors import (
    CancelledTaskError,
    DeadlineExceededError,
    InvalidTaskError,
    OverloadedError,
)
from collaboration.questions import DOMAINS, held_out
from device_agent.engine import Engine, GenerateRequest, Sampling
from device_agent.engine.detokenizer import Detokenizer
from device_agent.engine.grammars.json_schema import from_json_schema

QUESTION = "What is 12+25?"


def prompt_of(engine: Engine, question: str = QUESTION) -> str:
    return engine.model.user_prompt(question)


NEAR_TIE = 0.1
"""Natural logarithms. llama.cpp sums in an order that depends on the batch: two tokens that are as
good as equally likely may change places, and nothing else may differ."""


@pytest.mark.parametrize("name", ["mathematics", "cloud"])
async def test_greedy_output_is_llama_cpps_own_up_to_ties(
    name: str, make_engine: MakeEngine
) -> None:
    engine = make_engine(name)
    # Several threads wait for one another in a loop: on a busy machine, for most of the time.
    reference = llama_cpp.Llama(
        str(MODELS[name]), n_ctx=0, n_threads=1, n_threads_batch=1, verbose=False
    )
    same = 0
    for question in (questions := held_out(20, 5, DOMAINS)):
        prompt = prompt_of(engine, question.text)
        completion = await engine.generate(GenerateRequest(prompt, max_tokens=150, top_logprobs=2))
        own = []
        tokens = reference.tokenize(prompt.encode(), special=True)
        for token in reference.generate(tokens, temp=0.0):
            own.append(token)
            if token in engine.model.end_tokens or len(own) == 150:
                break
        same += tuple(own) == completion.token_ids
        for ours, theirs in zip(completion.tokens, own, strict=False):
            if ours.token != theirs:
                first, second = ours.alternatives
                assert second.token == theirs
                assert first.logprob - second.logprob < NEAR_TIE
                break
    reference.close()
    assert same >= 0.9 * len(questions)


async def test_every_token_is_scored_and_text_comes_piece_by_piece(
    make_engine: MakeEngine, gate: Gate
) -> None:
    engine = make_engine()
    request = GenerateRequest(prompt_of(engine), top_logprobs=3)
    gate.shut(after=1)
    generation = await engine.start(request)
    pieces = []
    async for delta in generation:
        pieces.append(delta.text)
        # The next token is not made before this one was told.
        gate.let(1)
    completion = await generation.completion()
    assert "".join(pieces) == completion.text
    assert len(pieces) > 5
    assert completion.finish_reason == "end"
    assert completion.confidence is not None
    assert 0 < completion.confidence.sequence_probability <= 1
    assert len(completion.logprobs) == len(completion.tokens) > 0
    for token in completion.tokens:
        assert token.logprob is not None
        # Greedy: the token is the likeliest, and the alternatives fall from there.
        assert token.alternatives[0].token == token.token
        assert token.alternatives[0].logprob == pytest.approx(token.logprob, abs=1e-4)
        assert all(a.logprob >= b.logprob for a, b in pairwise(token.alternatives))


async def test_without_scores_the_text_is_the_same(make_engine: MakeEngine) -> None:
    engine = make_engine()
    scored = await engine.generate(GenerateRequest(prompt_of(engine)))
    plain = await engine.generate(GenerateRequest(prompt_of(engine), scores=False))
    assert plain.text == scored.text
    assert plain.confidence is None
    assert plain.logprobs == ()


async def test_sampling_depends_on_the_seed_alone(make_engine: MakeEngine) -> None:
    engine = make_engine()
    prompt = prompt_of(engine, "Join the last letters of: xa xe xi xo")

    async def texts(seed: int) -> list[str]:
        sampling = Sampling(temperature=2.0, seed=seed)
        request = GenerateRequest(prompt, sampling=sampling, max_tokens=30)
        return [(await engine.generate(request)).text for _ in range(2)]

    one, again = await texts(1)
    other, _ = await texts(2)
    assert one == again != other


async def test_penalties_and_biases_change_what_comes(make_engine: MakeEngine) -> None:
    engine = make_engine()
    (digit,) = engine.model.tokenize("7", add_special=False)
    biased = Sampling(logit_bias={digit: 100.0})
    request = GenerateRequest(prompt_of(engine), sampling=biased, max_tokens=5)
    assert (await engine.generate(request)).text == "77777"
    tired = Sampling(logit_bias={digit: 8.0}, frequency_penalty=2.0)
    request = GenerateRequest(prompt_of(engine), sampling=tired, max_tokens=8)
    assert (await engine.generate(request)).text.count("7") < 6


async def test_a_stop_string_ends_the_text_before_it(make_engine: MakeEngine) -> None:
    engine = make_engine()
    whole = (await engine.generate(GenerateRequest(prompt_of(engine)))).text
    generation = await engine.start(GenerateRequest(prompt_of(engine), stop=("####",)))
    pieces = [delta.text async for delta in generation]
    cut = await generation.completion()
    assert cut.text == "".join(pieces) == whole.partition("####")[0]
    assert cut.finish_reason == "stop"


async def test_length_ends_by_max_tokens_and_by_the_context(make_engine: MakeEngine) -> None:
    engine = make_engine(context_tokens=256)
    request = GenerateRequest(prompt_of(engine), max_tokens=7, ignore_end=True)
    completion = await engine.generate(request)
    assert (completion.finish_reason, len(completion.tokens)) == ("length", 7)
    request = GenerateRequest(prompt_of(engine), max_tokens=10_000, ignore_end=True)
    completion = await engine.generate(request)
    assert completion.finish_reason == "length"
    assert completion.prompt_tokens + len(completion.tokens) == 256


async def test_a_json_schema_is_followed_even_by_a_model_that_never_saw_json(
    make_engine: MakeEngine,
) -> None:
    engine = make_engine()
    schema = {
        "type": "object",
        "properties": {
            "sum": {"type": "string", "pattern": "^[0-9]{1,3}$"},
            "sure": {"type": "boolean"},
        },
        "required": ["sum", "sure"],
        "additionalProperties": False,
    }
    for seed in range(5):
        request = GenerateRequest(
            prompt_of(engine),
            sampling=Sampling(temperature=1.5, seed=seed),
            grammar=from_json_schema(schema),
            max_tokens=200,
        )
        completion = await engine.generate(request)
        assert completion.finish_reason == "end"
        answer = json.loads(completion.text)
        assert set(answer) == {"sum", "sure"}
        assert 0 <= int(answer["sum"]) <= 999
        assert isinstance(answer["sure"], bool)


async def test_a_wrong_grammar_is_refused_before_anything_is_queued(
    make_engine: MakeEngine,
) -> None:
    engine = make_engine()
    with pytest.raises(InvalidTaskError, match="not a grammar"):
        await engine.generate(GenerateRequest(prompt_of(engine), grammar="root = ["))
    with pytest.raises(InvalidTaskError, match="JSON schema"):
        from_json_schema({"type": "array", "items": {"$ref": "#/nowhere"}})
    with pytest.raises(InvalidTaskError, match=r"\$\.properties\.n has 'minimum'"):
        from_json_schema({"type": "object", "properties": {"n": {"minimum": 1}}})
    with pytest.raises(InvalidTaskError, match="'maxItems': 1000000000; 0 to 2000"):
        from_json_schema({"type": "array", "maxItems": 10**9})


async def test_a_deadline_reaches_the_decode_loop(
    make_engine: MakeEngine, gate: Gate, clock: Clock
) -> None:
    engine = make_engine()
    with pytest.raises(DeadlineExceededError):
        await engine.generate(GenerateRequest(prompt_of(engine), deadline_s=clock.now_s()))
    gate.shut(after=10)
    later = await engine.start(
        GenerateRequest(
            prompt_of(engine), max_tokens=300, ignore_end=True, deadline_s=clock.now_s() + 1e6
        )
    )
    await gate.held()
    clock.advance(1e6)
    gate.open()
    with pytest.raises(DeadlineExceededError):
        await later.completion()
    assert engine.statistics.generated_tokens <= 11
    assert (await engine.generate(GenerateRequest(prompt_of(engine)))).text


async def test_cancelling_frees_the_place_at_the_next_pass(
    make_engine: MakeEngine, gate: Gate
) -> None:
    engine = make_engine(parallel=1)
    endless = GenerateRequest(prompt_of(engine), max_tokens=340, ignore_end=True)
    gate.shut(after=10)
    generation = await engine.start(endless)
    await gate.held()
    generation.cancel()
    gate.open()
    with pytest.raises(CancelledTaskError):
        await generation.completion()
    assert engine.statistics.passes == 11
    assert (await engine.generate(GenerateRequest(prompt_of(engine)))).finish_reason == "end"


async def test_who_failed_is_forgotten_without_the_garbage_collector(
    make_engine: MakeEngine,
) -> None:
    engine = make_engine()
    gc.disable()
    try:
        generation = await engine.start(GenerateRequest(prompt_of(engine), max_tokens=300))
        generation.cancel()
        with contextlib.suppress(CancelledTaskError):
            await generation.completion()
        kept = weakref.ref(generation)
        del generation
        # The engine lets go of it with its next step.
        await engine.generate(GenerateRequest(prompt_of(engine), max_tokens=1))
        assert kept() is None
    finally:
        gc.enable()


async def test_a_full_queue_refuses_and_closing_answers_everybody(
    make_engine: MakeEngine, gate: Gate
) -> None:
    engine = make_engine(parallel=2, queue_length=3)
    endless = GenerateRequest(prompt_of(engine), max_tokens=340, ignore_end=True)
    gate.shut()
    running = [await engine.start(endless) for _ in range(5)]
    with pytest.raises(OverloadedError, match="3 generations are queued"):
        await engine.start(endless)
    closing = asyncio.ensure_future(asyncio.to_thread(engine.close))
    with pytest.raises(CancelledTaskError):
        while True:
            with contextlib.suppress(OverloadedError):
                await engine.start(endless)
            await asyncio.sleep(0)
    gate.open()
    await closing
    outcomes = await asyncio.gather(*(g.completion() for g in running), return_exceptions=True)
    assert all(isinstance(outcome, CancelledTaskError) for outcome in outcomes)
    with pytest.raises(CancelledTaskError):
        await engine.start(endless)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (GenerateRequest("7" * 500), "tokens, the model's context only 384"),
        (GenerateRequest(()), "no tokens"),
        (GenerateRequest((1, 99_999)), "token 99999; the vocabulary ends at"),
        (
            GenerateRequest("x", sampling=Sampling(logit_bias={9999: 1.0})),
            "logit_bias has token 9999",
        ),
    ],
)
async def test_what_cannot_be_met_is_refused_with_the_numbers(
    request_: GenerateRequest, message: str, make_engine: MakeEngine
) -> None:
    with pytest.raises(InvalidTaskError, match=message):
        await make_engine().start(request_)


@given(
    st.text(max_size=40),
    st.lists(st.text(min_size=1, max_size=4), max_size=3),
    st.integers(1, 5),
)
def test_text_is_cut_at_the_first_stop_string_however_its_bytes_arrive(
    text: str, stop: list[str], size: int
) -> None:
    data = text.encode()
    stream, given_out = Detokenizer(tuple(stop)), ""
    for start in range(0, len(data), size):
        piece = stream.push(data[start : start + size])
        assert "�" not in piece or "�" in text
        given_out += piece
        if stream.stopped:
            break
    if not stream.stopped:
        given_out += stream.finish()
    assert given_out == stream.text
    # The earliest end decides which stop string was complete first.
    whole = ""
    for character in text:
        whole += character
        found = [whole.find(mark) for mark in stop if mark in whole]
        if found and size == 1:
            assert given_out == whole[: min(found)]
            return
    if not any(mark in text for mark in stop):
        assert given_out == text


@settings(max_examples=50)
@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=10))
def test_half_a_character_at_the_end_is_left_out(text: str) -> None:
    data = (text + "✓").encode()[:-1]
    stream = Detokenizer()
    assert stream.push(data) + stream.finish() == text
