"""A fault in one generation ends that generation: its neighbours say what they say without it.

Faults are put in where the real ones come from: a sequence whose drawing, grammar or text raises, tokens
that no batch takes, a context that refuses.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from engines import Gate, MakeEngine

from airloom.errors import AirloomError, InternalError, OverloadedError
from device_agent.engine import Engine, GenerateRequest, Sampling
from device_agent.engine import engine as engine_module
from device_agent.engine.context import DecodeError
from device_agent.engine.sequence import Sequence

PARALLEL = 3
CULPRIT = "Q: the culprit. "


def request(prompt: str = "Q: 12+25", **changes: Any) -> GenerateRequest:
    return GenerateRequest(prompt, **{"max_tokens": 40, "ignore_end": True, **changes})


def is_culprit(sequence: Sequence) -> bool:
    return sequence.request.prompt == CULPRIT


def failing(
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    error: Exception,
    *,
    after: int = 0,
    where: Callable[[Sequence], bool] = is_culprit,
) -> None:
    """Let a method of the culprit's sequence raise, from its n-th call on."""
    original = getattr(Sequence, method)
    calls = 0

    def maybe(self: Sequence, *arguments: Any) -> Any:
        nonlocal calls
        if where(self):
            calls += 1
            if calls > after:
                raise error
        return original(self, *arguments)

    monkeypatch.setattr(Sequence, method, maybe)


async def outcome(answer: Awaitable[Any]) -> Any:
    try:
        return await answer
    except AirloomError as error:
        return error


async def innocent_and_culprit(engine: Engine, **changes: Any) -> tuple[list[Any], Any]:
    """What two others say beside a culprit, and what that gets."""
    others = [request(sampling=Sampling(seed=seed), **changes) for seed in (1, 2)]
    asked = [others[0], request(CULPRIT, **changes), others[1]]
    first, culprit, second = await asyncio.gather(
        *(outcome(engine.generate(each)) for each in asked)
    )
    return [first, second], culprit


async def everything_works(engine: Engine) -> None:
    """All slots can be had at once, and nothing runs or waits afterwards."""
    again = await asyncio.gather(*(engine.generate(request()) for _ in range(2 * PARALLEL)))
    assert len({one.token_ids for one in again}) == 1
    running = engine._loop.scheduler
    assert (list(running.running), list(running.waiting)) == ([], [])
    slots = [slot for slot in engine._contexts.first.cache.slots if slot.busy]
    assert slots == []
    assert engine.failed is None


UNEXPECTED = ValueError("what nobody thought of")

STAGES = {
    "admitting: cache keys": ("keys", 0, {}),
    "drawing": ("draw", 3, {"sampling": Sampling(temperature=0.7)}),
    "drawing, with others looked at": ("draw", 3, {"stop": ("zzz",), "sampling": Sampling(0.7)}),
    "drawing the first": ("draw", 0, {"sampling": Sampling(temperature=0.7)}),
    "taking tokens": ("extend", 0, {}),
    "taking later tokens": ("extend", 1, {"stop": ("zzz",)}),
    "summing up": ("complete", 0, {}),
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("error", [UNEXPECTED, MemoryError(), DecodeError("refused")], ids=repr)
async def test_it_ends_who_is_at_fault(
    stage: str,
    error: Exception,
    make_engine: MakeEngine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    method, after, changes = STAGES[stage]
    engine = make_engine(parallel=PARALLEL)
    expected, whole = await innocent_and_culprit(engine)
    assert not isinstance(whole, Exception)
    failing(monkeypatch, method, error, after=after)
    engine = make_engine(parallel=PARALLEL)
    asked = [request(sampling=Sampling(seed=1)), request(CULPRIT, **changes), request()]
    first, culprit, second = await asyncio.gather(
        *(outcome(engine.generate(each)) for each in asked)
    )
    assert [first.token_ids, second.token_ids] == [one.token_ids for one in expected]
    if isinstance(error, AirloomError):
        assert str(culprit) == str(error)
    else:
        assert isinstance(culprit, InternalError)
        assert type(error).__name__ in str(culprit)
        assert any(record.exc_info for record in caplog.records)
    await everything_works(engine)
    assert engine.statistics.outcomes[type(culprit).__name__] == 1


async def test_a_grammar_that_fails_ends_its_own_generation(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(parallel=PARALLEL)
    expected = (await engine.generate(request())).token_ids
    monkeypatch.setattr("device_agent.engine.grammars.grammar.Grammar.accept", lambda *_: 1 / 0)
    with_grammar = request(CULPRIT, grammar="root ::= [0-9]+")
    first, culprit, second = await asyncio.gather(
        *(outcome(engine.generate(each)) for each in (request(), with_grammar, request()))
    )
    assert [first.token_ids, second.token_ids] == [expected] * 2
    assert isinstance(culprit, InternalError)
    assert "ZeroDivisionError" in str(culprit)
    await everything_works(engine)


async def test_telling_a_stream_fails_for_that_stream_only(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(parallel=PARALLEL)
    expected = (await engine.generate(request())).token_ids
    failing(monkeypatch, "take_last_delta", UNEXPECTED)
    streams = [await engine.start(request(prompt)) for prompt in ("Q: 12+25", CULPRIT)]
    innocent, culprit = await asyncio.gather(*(outcome(one.completion()) for one in streams))
    assert innocent.token_ids == expected
    assert isinstance(culprit, InternalError)
    await everything_works(engine)


async def test_tokens_that_no_batch_takes_end_their_own_generation(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(parallel=PARALLEL)
    expected, _ = await innocent_and_culprit(engine)
    original = Sequence.__post_init__

    def broken(self: Sequence) -> None:
        original(self)
        if is_culprit(self):
            # More than 32 bits hold.
            self.tokens[-2] = 1 << 40

    monkeypatch.setattr(Sequence, "__post_init__", broken)
    engine = make_engine(parallel=PARALLEL)
    found, culprit = await innocent_and_culprit(engine)
    assert [one.token_ids for one in found] == [one.token_ids for one in expected]
    assert isinstance(culprit, InternalError)
    await everything_works(engine)


@pytest.mark.parametrize("pays", [False, True], ids=["plain", "padded"])
async def test_a_pass_that_llama_refuses_is_tried_one_by_one(
    pays: bool,
    make_engine: MakeEngine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """llama.cpp refuses a whole batch for one token that is not in the vocabulary."""
    monkeypatch.setattr("device_agent.engine.trial.Trial.pays", lambda *_: pays)
    engine = make_engine(parallel=PARALLEL)
    expected, _ = await innocent_and_culprit(engine)
    original = Sequence.extend

    def broken(self: Sequence, *arguments: Any) -> Any:
        reason = original(self, *arguments)
        if is_culprit(self) and len(self.generated) == 5:
            self.tokens[-1] = 1 << 20
        return reason

    monkeypatch.setattr(Sequence, "extend", broken)
    engine = make_engine(parallel=PARALLEL)
    # A stop string: each token is looked at before the next.
    found, culprit = await innocent_and_culprit(engine, stop=("zzz",))
    assert [one.token_ids for one in found] == [one.token_ids for one in expected]
    assert isinstance(culprit, DecodeError)
    assert "each is tried alone" in caplog.text
    await everything_works(engine)


async def test_a_refusal_that_goes_away_ends_nobody(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(parallel=PARALLEL)
    expected, third = await innocent_and_culprit(engine)
    context = engine._contexts.first.context
    original, passes = context.decode, 0

    def now_and_then(batch: Any) -> Any:
        nonlocal passes
        passes += 1
        if passes % 5 == 0 and batch.output_count > 1:
            raise DecodeError("llama.cpp could not decode (status 1)")
        return original(batch)

    monkeypatch.setattr(context, "decode", now_and_then)
    found, again = await innocent_and_culprit(engine)
    said = [one.token_ids for one in (*found, again)]
    assert said == [one.token_ids for one in (*expected, third)]
    assert passes > 5
    monkeypatch.undo()
    await everything_works(engine)


async def test_what_cannot_be_applied_ends_those_who_want_it(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(parallel=PARALLEL)
    expected = (await engine.generate(request())).token_ids
    context = engine._contexts.first

    def refused(adapters: Any) -> None:
        del adapters
        raise DecodeError("llama.cpp could not apply 1 adapters")

    with monkeypatch.context() as patch:
        patch.setattr(context.context, "use_adapters", refused)
        patch.setattr(context, "in_use", engine_module.Adapters(engine.model)._make(()))
        assert isinstance(await outcome(engine.generate(request())), DecodeError)
    assert (await engine.generate(request())).token_ids == expected
    await everything_works(engine)


@pytest.mark.usefixtures("everything_pays")
async def test_a_draft_model_that_fails_costs_nobody_anything(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine("cloud", draft="mathematics", parallel=PARALLEL, context_tokens=384)
    expected = (await engine.generate(request())).token_ids
    assert engine._drafter is not None

    def broken(*_: object) -> None:
        raise UNEXPECTED

    monkeypatch.setattr(engine._drafter, "draft", broken)
    assert (await engine.generate(request())).token_ids == expected
    await everything_works(engine)


async def test_an_observer_and_a_grammar_that_fail_at_the_end_keep_no_slot(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(parallel=PARALLEL)

    class Broken:
        def completed(self, completion: object) -> None:
            del completion
            raise UNEXPECTED

    monkeypatch.setattr(engine._loop._departures, "_observer", Broken())
    monkeypatch.setattr("device_agent.engine.grammars.grammar.Grammar.close", lambda _: 1 / 0)
    answer = await engine.generate(request(grammar="root ::= [0-9]{5}"))
    assert answer.finish_reason == "end"
    await everything_works(engine)


async def test_a_slot_that_cannot_be_put_away_is_emptied(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(parallel=1)
    expected = await engine.generate(request())
    # The second call of `keys` is made when the slot is given back.
    failing(monkeypatch, "keys", UNEXPECTED, after=1)
    assert (await engine.generate(request(CULPRIT))).finish_reason == "length"
    again = await engine.generate(request())
    assert (again.token_ids, again.cached_tokens) == (expected.token_ids, 0)


async def test_who_is_refused_by_a_full_queue_leaves_nothing(
    make_engine: MakeEngine, gate: Gate
) -> None:
    engine = make_engine(parallel=1, queue_length=0)
    gate.shut()
    running = await engine.start(request())
    with pytest.raises(OverloadedError):
        await engine.start(request(grammar="root ::= [0-9]+"))
    gate.open()
    assert (await running.completion()).finish_reason == "length"
    assert (await engine.generate(request())).finish_reason == "length"


async def test_whatever_admission_raises_is_explained(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = make_engine()

    async def broken(request: GenerateRequest) -> Sequence:
        del request
        raise UNEXPECTED

    monkeypatch.setattr(engine._admission, "admit", broken)
    with caplog.at_level(logging.ERROR), pytest.raises(InternalError, match="ValueError"):
        await engine.generate(request())
    assert "what nobody thought of" in caplog.text
