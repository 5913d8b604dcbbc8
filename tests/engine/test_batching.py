"""Many requests at once: nothing is mixed up, nobody starves, and what was read is not read again."""

import asyncio
import random

import numpy as np
import pytest
from engines import MODELS, Gate, MakeEngine, together
from hypothesis import given
from hypothesis import strategies as st

from collaboration.questions import DOMAINS, held_out
from device_agent.engine import GenerateRequest, Model, Sampling
from device_agent.engine.context import Batch, Context
from device_agent.engine.prefill_budget import PrefillBudget, share_out
from device_agent.engine.prefix_cache import PrefixCache, position_keys


async def test_batched_answers_are_those_given_one_by_one(
    make_engine: MakeEngine, gate: Gate
) -> None:
    engine = make_engine("cloud", parallel=8, context_tokens=384)
    prompts = [engine.model.user_prompt(q.text) for q in held_out(8, 11, DOMAINS)]
    requests = [GenerateRequest(prompt, max_tokens=120) for prompt in prompts]
    alone = [await engine.generate(request) for request in requests]
    found = await together(engine, requests, gate)
    assert [one.text for one in found] == [one.text for one in alone]
    assert max(engine.statistics.passes_by_sequences) > 4


def test_batching_moves_logits_only_by_rounding() -> None:
    """The law behind the test above: sums are taken in another order, nothing else changes."""
    model = Model(MODELS["cloud"])
    prompts = [model.tokenize(model.user_prompt(q.text)) for q in held_out(4, 3, DOMAINS)]
    single = Context(model, threads=1, context_tokens=384)
    batch = Batch(512)
    expected = []
    for prompt in prompts:
        single.forget(0)
        batch.clear()
        batch.extend(prompt, 0, 0, output=True)
        expected.append(single.decode(batch)[0].copy())
    several = Context(model, sequences=4, threads=1, context_tokens=384)
    # Read in parts of 16 tokens, all prompts in the same passes.
    found: dict[int, np.ndarray] = {}
    for start in range(0, max(map(len, prompts)), 16):
        batch.clear()
        order = []
        for number, prompt in enumerate(prompts):
            part = prompt[start : start + 16]
            if part:
                last = start + len(part) == len(prompt)
                batch.extend(part, start, number, output=last)
                order += [number] if last else []
        for number, row in zip(order, several.decode(batch), strict=True):
            found[number] = row.copy()
    for number, row in enumerate(expected):
        assert np.abs(found[number] - row).max() < 0.05 * row.std()
        assert found[number].argmax() == row.argmax()
    single.close()
    several.close()
    model.close()


async def test_requests_that_come_and_go_keep_their_own_answers(make_engine: MakeEngine) -> None:
    engine = make_engine(parallel=4, queue_length=100)
    questions = [f"What is {a}+{b}?" for a in range(11, 16) for b in range(21, 26)]
    expected = {}
    for question in questions:
        prompt = engine.model.user_prompt(question)
        expected[question] = (await engine.generate(GenerateRequest(prompt))).text
    rng = random.Random(1)

    async def ask(question: str) -> None:
        prompt = engine.model.user_prompt(question)
        generation = await engine.start(GenerateRequest(prompt))
        if rng.random() < 0.3:
            await anext(aiter(generation))
            generation.cancel()
            return
        text = "".join([delta.text async for delta in generation])
        assert text == expected[question]
        assert (await generation.completion()).text == text

    await asyncio.gather(*(ask(question) for question in questions * 3))


async def test_a_common_beginning_is_read_once_even_while_it_is_in_use(
    make_engine: MakeEngine, gate: Gate
) -> None:
    engine = make_engine(parallel=3)
    beginning = "Q: " + "three red apples and five green pears " * 4
    prompts = [beginning + ending for ending in ("Apples?", "Pears?", "Both?")]
    fresh = [
        (await make_engine().generate(GenerateRequest(prompt, max_tokens=20))).text
        for prompt in prompts
    ]
    gate.shut(after=1)
    first = await engine.start(GenerateRequest(prompts[0], max_tokens=200, ignore_end=True))
    rest = []
    for prompt in prompts[1:]:
        await gate.held()
        generation = await engine.start(GenerateRequest(prompt, max_tokens=20))
        # More than these need, and too few for the first to end.
        gate.let(50)
        rest.append(await generation.completion())
    await gate.held()
    first.cancel()
    gate.open()
    again = await engine.generate(GenerateRequest(prompts[0], max_tokens=20))
    common = len(engine.model.tokenize(beginning))
    assert [one.cached_tokens for one in rest] == [common, common]
    assert again.cached_tokens == again.prompt_tokens - 1
    assert [again.text, *(one.text for one in rest)] == fresh


async def test_a_long_prompt_does_not_hold_up_a_running_generation(
    make_engine: MakeEngine, gate: Gate
) -> None:
    engine = make_engine(parallel=2, stall_s=1e-6)
    prompt = engine.model.user_prompt("What is 12+25?")
    # Teaches the engine how long reading takes.
    await engine.generate(GenerateRequest("1" * 300, max_tokens=1))
    gate.shut(after=1)
    running = await engine.start(GenerateRequest(prompt, max_tokens=300, ignore_end=True))
    await gate.held()
    before = engine.statistics.passes
    reading = await engine.start(GenerateRequest("2" * 300, max_tokens=1))
    gate.open()
    await reading.completion()
    # 16 tokens a pass at the least: the prompt took many passes, each with a token of the other.
    assert engine.statistics.passes - before >= 300 // 16
    running.cancel()


async def test_sampled_requests_draw_from_their_own_seeds(
    make_engine: MakeEngine, gate: Gate
) -> None:
    engine = make_engine(parallel=4)
    prompt = engine.model.user_prompt("Join the last letters of: xa xe xi xo")
    requests = [
        GenerateRequest(prompt, sampling=Sampling(temperature=1.5, seed=seed), max_tokens=25)
        for seed in range(4)
    ]
    alone = [(await engine.generate(request)).text for request in requests]
    found = await together(engine, requests, gate)
    assert [one.text for one in found] == alone
    assert len(set(alone)) > 1


@given(st.integers(0, 600), st.lists(st.integers(1, 400), max_size=8))
def test_shares_are_max_min_fair(budget: int, wanted: list[int]) -> None:
    shares = share_out(budget, wanted)
    assert all(0 <= share <= want for share, want in zip(shares, wanted, strict=True))
    assert sum(shares) == min(budget, sum(wanted))
    hungry = [share for share, want in zip(shares, wanted, strict=True) if share < want]
    if hungry:
        assert max(shares) <= min(hungry) + 1 + max(0, max(hungry) - min(hungry))
        assert max(hungry) - min(hungry) <= 1


def test_the_prefill_budget_follows_the_boards_speed() -> None:
    budget = PrefillBudget(512, stall_s=0.2)
    assert budget.tokens(decoding=3, reading=1) == 512
    budget.observe(512, 10.0)
    assert budget.tokens(decoding=0, reading=1) == 512
    assert budget.tokens(decoding=3, reading=1) == 16
    for _ in range(50):
        budget.observe(512, 0.512)
    assert budget.tokens(decoding=3, reading=1) == pytest.approx(200, abs=2)
    assert budget.tokens(decoding=3, reading=6) == pytest.approx(400, abs=4)


@given(
    st.lists(st.tuples(st.lists(st.integers(0, 2), min_size=1, max_size=80), st.booleans())),
)
def test_the_cache_never_promises_what_it_has_not(
    prompts: list[tuple[list[int], bool]],
) -> None:
    cache = PrefixCache(3)
    memory: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for tokens, adapted in prompts:
        keys = position_keys(tokens, int(adapted), 0)
        place = cache.place(keys)
        assert not place.slot.busy
        assert place.reused < len(tokens)
        assert memory[place.source.index][: place.reused] == keys[: place.reused].tolist()
        memory[place.slot.index] = keys.tolist()
        cache.occupy(place.slot, keys, len(keys))
        cache.release(place.slot, keys)
