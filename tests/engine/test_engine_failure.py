"""A defect of the loop itself: everybody gets an error, at once and from then on."""

import asyncio

import pytest
from engines import MODELS, Gate, MakeEngine

from airloom.errors import CancelledTaskError
from device_agent.engine import Engine, EngineFailedError, GenerateRequest

REQUEST = GenerateRequest("Q: 1+1", max_tokens=300, ignore_end=True)


def broken(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def defect() -> None:
        raise RuntimeError("a defect in the loop")

    monkeypatch.setattr(engine._loop.scheduler, "next_group", defect)


async def test_everybody_who_waits_gets_an_error(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch, gate: Gate
) -> None:
    engine = make_engine(parallel=2)
    watching = asyncio.ensure_future(engine.until_failed())
    given_up = asyncio.ensure_future(engine.until_failed())
    gate.shut(after=3)
    generations = [await engine.start(REQUEST) for _ in range(5)]
    await gate.held()
    given_up.cancel()
    broken(engine, monkeypatch)
    gate.open()
    outcomes = await asyncio.gather(
        *(generation.completion() for generation in generations), return_exceptions=True
    )
    assert {type(outcome) for outcome in outcomes} == {EngineFailedError}
    assert "RuntimeError: a defect in the loop" in str(await watching)
    assert str(await engine.until_failed()) == str(engine.failed)


async def test_whoever_comes_later_gets_the_same_error(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine()
    broken(engine, monkeypatch)
    for _ in range(2):
        with pytest.raises(EngineFailedError, match="a defect in the loop"):
            await engine.generate(REQUEST)
    await engine.until_failed()
    for later in (
        engine.start(REQUEST),
        engine.embed(["1+1"]),
        engine.load_adapter("any", MODELS["mathematics"]),
    ):
        with pytest.raises(EngineFailedError, match="a defect in the loop"):
            await later


async def test_closing_is_no_failure(make_engine: MakeEngine, gate: Gate) -> None:
    engine = make_engine()
    watching = asyncio.ensure_future(engine.until_failed())
    gate.shut(after=3)
    generation = await engine.start(REQUEST)
    await gate.held()
    closing = asyncio.ensure_future(asyncio.to_thread(engine.close))
    while not engine._closing:
        await asyncio.sleep(0)
    gate.open()
    await closing
    with pytest.raises(CancelledTaskError, match="closing"):
        await generation.completion()
    with pytest.raises(CancelledTaskError, match="closing"):
        await engine.generate(REQUEST)
    assert engine.failed is None
    assert not watching.done()
    watching.cancel()
