"""A generation that is held for another engine is never lost, whoever vanishes meanwhile."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from engines import Clock, Gate, MakeEngine

from airloom.errors import (
    CancelledTaskError,
    ConflictError,
    DeadlineExceededError,
    InternalError,
    InvalidTaskError,
)
from device_agent.engine import (
    Completion,
    Engine,
    GenerateRequest,
    Generation,
    HandedOverError,
    Hold,
    Sampling,
)
from device_agent.engine.generation import Event

LONG_S = 1e6
SHORT_S = 1e-3


def request(tokens: int = 200, deadline_s: float | None = None) -> GenerateRequest:
    return GenerateRequest(
        "Q: 128+255",
        max_tokens=tokens,
        ignore_end=True,
        sampling=Sampling(temperature=0.8, seed=5),
        deadline_s=deadline_s,
    )


async def begun(engine: Engine, gate: Gate, tokens: int = 200) -> Generation:
    """A generation that has been decoded for some passes, and waits at the gate."""
    gate.shut(after=10)
    generation = await engine.start(request(tokens))
    await gate.held()
    return generation


async def taken(generation: Generation, gate: Gate, lease_s: float = LONG_S) -> Hold:
    """Hold a generation that waits at the gate."""
    asking = asyncio.ensure_future(generation.hold(lease_s))
    await asyncio.sleep(0)
    gate.open()
    return await asking


async def held(engine: Engine, gate: Gate, lease_s: float = LONG_S) -> tuple[Generation, Hold]:
    generation = await begun(engine, gate)
    return generation, await taken(generation, gate, lease_s)


async def rest(generation: Generation) -> str:
    return "".join([delta.text async for delta in generation])


@pytest.fixture
async def engine(make_engine: MakeEngine) -> AsyncIterator[Engine]:
    engine = make_engine(parallel=1)
    yield engine
    # The slot is free again, whatever has happened.
    assert isinstance(await engine.generate(request(2)), Completion)


async def test_rolled_back_it_says_the_same_as_if_nothing_had_happened(
    engine: Engine, gate: Gate
) -> None:
    expected = await engine.generate(request())
    generation, hold = await held(engine, gate)
    passes = engine.statistics.passes
    with pytest.raises(InvalidTaskError, match="being handed over already"):
        await generation.hold(LONG_S)
    assert engine.statistics.passes == passes
    hold.roll_back()
    assert await rest(generation) == expected.text
    assert (await generation.completion()).token_ids == expected.token_ids
    # Nothing comes of deciding twice.
    hold.roll_back()
    with pytest.raises(ConflictError, match="was not handed over"):
        await hold.commit()


async def test_committed_it_goes_on_elsewhere_and_only_there(
    engine: Engine, make_engine: MakeEngine, gate: Gate
) -> None:
    expected = await engine.generate(request())
    generation, hold = await held(engine, gate)
    await hold.commit()
    hold.roll_back()
    told = await rest(generation)
    with pytest.raises(HandedOverError):
        await generation.completion()
    there = await make_engine().resume(hold.state)
    assert told + await rest(there) == expected.text


async def test_a_caller_that_vanishes_loses_nothing(engine: Engine, gate: Gate) -> None:
    """The end of the lease decides: nobody commits, nobody rolls back."""
    expected = await engine.generate(request())
    generation, hold = await held(engine, gate, SHORT_S)
    assert await rest(generation) == expected.text
    with pytest.raises(ConflictError):
        await hold.commit()


async def test_an_old_hold_decides_nothing_about_a_new_one(engine: Engine, gate: Gate) -> None:
    generation, old = await held(engine, gate)
    gate.shut(after=10)
    old.roll_back()
    await gate.held()
    new = await taken(generation, gate)
    old.roll_back()
    with pytest.raises(ConflictError):
        await old.commit()
    await new.commit()


async def test_a_caller_that_leaves_while_it_asks_leaves_no_hold(
    engine: Engine, gate: Gate
) -> None:
    generation = await begun(engine, gate)
    asking = asyncio.ensure_future(generation.hold(LONG_S))
    await asyncio.sleep(0)
    asking.cancel()
    gate.open()
    await generation.completion()


async def test_a_caller_that_leaves_just_as_it_is_answered_leaves_no_hold(
    engine: Engine, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    generation = await begun(engine, gate)
    asking = asyncio.ensure_future(generation.hold(LONG_S))
    deliver = generation.deliver

    def answer_and_cancel(event: Event) -> None:
        deliver(event)
        if isinstance(event, Hold):
            asking.cancel()

    monkeypatch.setattr(generation, "deliver", answer_and_cancel)
    await asyncio.sleep(0)
    gate.open()
    await asyncio.wait_for(generation.completion(), 30)
    assert asking.cancelled()


async def test_what_is_held_keeps_its_slot_and_the_others_go_on(
    make_engine: MakeEngine, gate: Gate
) -> None:
    engine = make_engine(parallel=2)
    generation, hold = await held(engine, gate)
    others = await asyncio.gather(*(engine.generate(request()) for _ in range(3)))
    assert len({one.token_ids for one in others}) == 1
    hold.roll_back()
    assert (await generation.completion()).token_ids == others[0].token_ids


async def test_what_waits_is_held_once_it_has_begun(engine: Engine, gate: Gate) -> None:
    first = await begun(engine, gate)
    waiting = await engine.start(request())
    asking = asyncio.ensure_future(waiting.hold(LONG_S))
    gate.let(5)
    await gate.held()
    assert not asking.done()
    first.cancel()
    gate.open()
    await (await asking).commit()


@pytest.mark.parametrize("waits", [True, False])
async def test_whoever_asked_and_left_may_ask_again(
    engine: Engine, gate: Gate, waits: bool
) -> None:
    first = await begun(engine, gate)
    wanted = await engine.start(request()) if waits else first
    left = asyncio.ensure_future(wanted.hold(LONG_S))
    await asyncio.sleep(0)
    left.cancel()
    await asyncio.wait({left})
    again = asyncio.ensure_future(wanted.hold(LONG_S))
    await asyncio.sleep(0)
    assert not again.done()
    if waits:
        first.cancel()
    gate.open()
    await (await again).commit()
    with pytest.raises(HandedOverError):
        await wanted.completion()


async def test_who_is_held_can_still_be_cancelled(engine: Engine, gate: Gate) -> None:
    generation, hold = await held(engine, gate)
    generation.cancel()
    with pytest.raises(CancelledTaskError, match="was cancelled"):
        await generation.completion()
    with pytest.raises(ConflictError):
        await hold.commit()


async def test_the_deadline_holds_for_who_is_held(engine: Engine, gate: Gate, clock: Clock) -> None:
    gate.shut(after=10)
    generation = await engine.start(request(deadline_s=clock.now_s() + LONG_S / 2))
    await gate.held()
    hold = await taken(generation, gate)
    clock.advance(LONG_S * 0.75)
    # Somebody comes, and the loop looks at the clock.
    other = await engine.start(request(2))
    with pytest.raises(DeadlineExceededError):
        await generation.completion()
    with pytest.raises(ConflictError):
        await hold.commit()
    await other.completion()


async def test_who_waits_behind_a_hold_is_late_in_time(engine: Engine, gate: Gate) -> None:
    _, hold = await held(engine, gate)
    now_s = asyncio.get_running_loop().time()
    with pytest.raises(DeadlineExceededError):
        await engine.generate(request(2, now_s + 0.05))
    await hold.commit()


async def test_what_has_ended_cannot_be_held(engine: Engine) -> None:
    generation = await engine.start(request(2))
    await generation.completion()
    with pytest.raises(InvalidTaskError, match="ended before it could be handed over"):
        await generation.hold(LONG_S)


async def test_what_cannot_be_exported_goes_on(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, gate: Gate
) -> None:
    expected = await engine.generate(request())
    generation = await begun(engine, gate)
    with monkeypatch.context() as patch:
        patch.setattr(engine._contexts.first.context, "export_state", lambda _: 1 / 0)
        with pytest.raises(InternalError, match="ZeroDivisionError"):
            await taken(generation, gate)
    assert await rest(generation) == expected.text


async def test_an_engine_that_closes_answers_everybody(make_engine: MakeEngine, gate: Gate) -> None:
    engine = make_engine()
    generation, hold = await held(engine, gate)
    await asyncio.to_thread(engine.close)
    with pytest.raises(CancelledTaskError, match="closing"):
        await generation.completion()
    hold.roll_back()
    with pytest.raises(CancelledTaskError, match="closing"):
        await hold.commit()
