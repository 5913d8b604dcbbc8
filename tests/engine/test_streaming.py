"""What streams are told, and when: pieces that come fast together, and none of them lost."""

import pytest
from engines import Clock, Gate, MakeEngine, suspended

from airloom.errors import DeadlineExceededError
from device_agent.engine import GenerateRequest, Generation

TOLD = 12
"""So many tokens of the answer to come have a text each: those after the end's mark may have none."""

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


async def test_without_an_interval_each_token_is_told_by_itself(
    make_engine: MakeEngine, gate: Gate
) -> None:
    engine = make_engine()
    gate.shut(after=1)
    generation = await engine.start(request(TOLD))
    told = 0
    async for delta in generation:
        assert len(delta.tokens) == 1
        told += 1
        gate.let(1)
    assert told == TOLD


async def test_a_slow_reader_is_told_what_has_come_meanwhile_as_one(
    make_engine: MakeEngine, gate: Gate
) -> None:
    engine = make_engine()
    gate.shut(after=TOLD)
    generation = await engine.start(request(30))
    await gate.held()
    assert len((await anext(aiter(generation))).tokens) == TOLD


async def test_what_was_kept_back_is_told_before_others_are_read(
    make_engine: MakeEngine, gate: Gate
) -> None:
    engine = make_engine(stream_interval_s=LONG_S, parallel=2)
    gate.shut(after=20)
    running = await engine.start(request(300))
    stream = aiter(running)
    first = await anext(stream)
    await gate.held()
    other = await engine.start(request(2))
    gate.let(1)
    second = await anext(stream)
    # The pass that was held is done first.
    assert len(first.tokens) + len(second.tokens) == 21
    gate.open()
    assert len([delta async for delta in stream]) == 1
    await other.completion()


async def test_who_leaves_early_was_told_everything(make_engine: MakeEngine, gate: Gate) -> None:
    engine = make_engine(stream_interval_s=LONG_S)
    expected = (await engine.generate(request(300))).text
    gate.shut(after=20)
    generation = await engine.start(request(300))
    first = await anext(aiter(generation))
    state = await suspended(generation, gate)
    assert 20 <= len(state.generated) < 300
    told = first.text + "".join(await pieces(generation))
    there = make_engine(stream_interval_s=LONG_S)
    rest = await there.resume(state)
    assert told + "".join(await pieces(rest)) == expected


async def test_a_deadline_takes_nothing_back(
    make_engine: MakeEngine, gate: Gate, clock: Clock
) -> None:
    engine = make_engine(stream_interval_s=10 * LONG_S)
    gate.shut(after=20)
    generation = await engine.start(request(300, clock.now_s() + LONG_S))
    await gate.held()
    clock.advance(LONG_S)
    gate.open()
    first, rest = [delta.tokens async for delta in generation]
    assert len(first) == 1
    assert 20 <= 1 + len(rest) < 300
    with pytest.raises(DeadlineExceededError):
        await generation.completion()
