"""Generations left to themselves say the same as ones that are looked at after every token."""

import asyncio
import dataclasses
import itertools
import sys

import pytest
from engines import Clock, Gate, MakeEngine, together

from airloom.errors import CancelledTaskError, DeadlineExceededError
from device_agent.engine import Completion, Engine, GenerateRequest, Generation, Sampling

NEVER = ("\N{SNOWMAN}",)
"""A stop string that does not come: for its sake each token is looked at before the next is drawn."""


def request(tokens: int, **changes: object) -> GenerateRequest:
    return dataclasses.replace(
        GenerateRequest("Q: 1+1", max_tokens=tokens, ignore_end=True), **changes
    )


def said(completion: Completion) -> tuple[object, ...]:
    return completion.text, completion.tokens, completion.finish_reason, completion.confidence


@pytest.mark.parametrize("scores", [False, True])
@pytest.mark.parametrize("temperature", [0.0, 0.9])
async def test_one_says_the_same(scores: bool, temperature: float, make_engine: MakeEngine) -> None:
    engine = make_engine()
    for tokens in (1, 2, 3, 300):
        asked = request(
            tokens,
            scores=scores,
            top_logprobs=3 if scores else 0,
            sampling=Sampling(temperature=temperature, seed=tokens),
        )
        looked_at = await engine.generate(dataclasses.replace(asked, stop=NEVER))
        assert said(await engine.generate(asked)) == said(looked_at)


async def test_an_end_is_an_end(make_engine: MakeEngine) -> None:
    engine = make_engine()
    prompt = engine.model.user_prompt("What is 12+25?")
    completion = await engine.generate(GenerateRequest(prompt))
    looked_at = await engine.generate(GenerateRequest(prompt, stop=NEVER))
    assert completion.finish_reason == "end"
    assert said(completion) == said(looked_at)


async def test_neighbours_of_a_free_slot_say_the_same(make_engine: MakeEngine, gate: Gate) -> None:
    engine = make_engine(parallel=3)
    asked = [request(tokens, sampling=Sampling(seed=tokens)) for tokens in (60, 4, 80)]
    alone = [await engine.generate(one) for one in asked]
    # The second leaves early: the pass bridges its slot.
    found = await together(engine, asked, gate)
    assert [one.token_ids for one in found] == [one.token_ids for one in alone]
    assert engine.statistics.passes_by_sequences[2] > 20


@pytest.mark.usefixtures("everything_pays")
async def test_rows_that_nobody_wants_change_nothing(make_engine: MakeEngine, gate: Gate) -> None:
    engine = make_engine(parallel=8)
    asked = [request(100, sampling=Sampling(seed=seed)) for seed in range(5)]
    alone = [await engine.generate(one) for one in asked]
    found = await together(engine, asked, gate)
    assert [one.token_ids for one in found] == [one.token_ids for one in alone]
    # What free slots remember is still there.
    again = await engine.generate(asked[0])
    assert again.cached_tokens == again.prompt_tokens - 1


async def test_what_is_counted_is_what_was_made(make_engine: MakeEngine) -> None:
    engine = make_engine()
    await engine.generate(request(200))
    assert engine.statistics.generated_tokens == 200
    assert sum(engine.statistics.passes_by_sequences.values()) == engine.statistics.passes == 200


async def start(engine: Engine, tokens: int, **changes: object) -> Generation:
    return await engine.start(request(tokens, **changes), stream=False)


async def test_who_comes_is_served_at_once(make_engine: MakeEngine, gate: Gate) -> None:
    engine = make_engine(parallel=2)
    gate.shut(after=10)
    running = await start(engine, 350)
    await gate.held()
    other = await start(engine, 2)
    # The pass that was held, one that reads the prompt, and one more.
    gate.let(3)
    await other.completion()
    gate.open()
    await running.completion()


async def test_who_leaves_leaves_at_once(make_engine: MakeEngine, gate: Gate, clock: Clock) -> None:
    engine = make_engine()
    gate.shut(after=10)
    cancelled = await start(engine, 350)
    await gate.held()
    cancelled.cancel()
    gate.let(1)
    with pytest.raises(CancelledTaskError):
        await cancelled.completion()
    late = await start(engine, 350, deadline_s=clock.now_s() + 1e6)
    gate.let(10)
    await gate.held()
    clock.advance(1e6)
    gate.let(1)
    with pytest.raises(DeadlineExceededError):
        await late.completion()
    assert engine.statistics.generated_tokens == 22


async def test_a_crowd_may_come_while_the_queue_is_looked_through(make_engine: MakeEngine) -> None:
    engine = make_engine(queue_length=10_000)
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        crowd = [await start(engine, 1) for _ in range(2_000)]
        for generation in itertools.islice(crowd, 0, None, 2):
            generation.cancel()
        outcomes = await asyncio.gather(
            *(generation.completion() for generation in crowd), return_exceptions=True
        )
    finally:
        sys.setswitchinterval(usual)
    kinds = {type(outcome) for outcome in outcomes}
    assert kinds <= {Completion, CancelledTaskError}
