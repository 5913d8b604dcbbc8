"""What streams are told, and when: pieces that come fast together, and none of them lost."""

import asyncio

import pytest
from engines import MakeEngine

from airloom.errors import DeadlineExceededError
from device_agent.engine import GenerateRequest, Generation

LONG_S = 1e6
"""No generation here lasts as long: what is told before its end is told for another reason."""


def request(tokens: int, deadline_s: float | None = None) -> GenerateRequest:
    return GenerateRequest("Q: 1+1", max_tokens=tokens, ignore_end=True, deadline_s=deadline_s)


async def pieces(generation: Generation) -> list[str]:
    return [delta.text async for delta in generation]


async def test_pieces_that_come_fast_are_told_as_one(make_engine: MakeEngine) -> None:
    engine = make_engine(stream_interval_s=LONG_S)
    generation = await engine.start(request(100))
    first, *rest = await pieces(generation)
    completion = await generation.completion()
    assert first + "".join(rest) == completion.text
    # The first token is not kept back, or it would not be the first.
    assert first == engine.model.pieces[completion.token_ids[0]].decode()
    assert len(rest) == 1


async def test_without_an_interval_each_token_is_told_by_itself(make_engine: MakeEngine) -> None:
    engine = make_engine()
    generation = await engine.start(request(30))
    tokens = [len(delta.tokens) async for delta in generation]
    assert sum(tokens) == 30
    # A reader that is slow finds several at once.
    assert len(tokens) > 2


async def test_what_was_kept_back_is_told_before_others_are_read(make_engine: MakeEngine) -> None:
    engine = make_engine(stream_interval_s=LONG_S, parallel=2)
    running = await engine.start(request(300))
    stream = aiter(running)
    first = await anext(stream)
    while engine.statistics.generated_tokens < 20:
        await asyncio.sleep(0)
    other = await engine.start(request(2))
    second = await anext(stream)
    told = len(first.tokens) + len(second.tokens)
    assert 20 <= told < 300
    assert len([delta async for delta in stream]) == 1
    await other.completion()


async def test_who_leaves_early_was_told_everything(make_engine: MakeEngine) -> None:
    engine = make_engine(stream_interval_s=LONG_S)
    expected = (await engine.generate(request(300))).text
    generation = await engine.start(request(300))
    first = await anext(aiter(generation))
    state = await generation.suspend()
    told = first.text + "".join(await pieces(generation))
    there = make_engine(stream_interval_s=LONG_S)
    rest = await there.resume(state)
    assert told + "".join(await pieces(rest)) == expected


async def test_a_deadline_takes_nothing_back(make_engine: MakeEngine) -> None:
    engine = make_engine("cloud", stream_interval_s=LONG_S, context_tokens=384)
    deadline_s = asyncio.get_running_loop().time() + 0.2
    generation = await engine.start(request(300, deadline_s))
    told = await pieces(generation)
    assert len(told) == 2
    with pytest.raises(DeadlineExceededError):
        await generation.completion()
