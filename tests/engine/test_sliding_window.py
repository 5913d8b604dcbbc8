"""Models that see the last tokens only in some layers: what the window left behind is not missed."""

import asyncio
from pathlib import Path

import pytest
from engines import MakeEngine
from files import write_gemma

from device_agent.engine import GenerateRequest
from device_agent.engine.payoff import Payoff

WINDOW = 16


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gemma(tmp_path_factory.mktemp("gemma") / "gemma.gguf", WINDOW)


def request(prompt: str, tokens: int = 60) -> GenerateRequest:
    return GenerateRequest(prompt, max_tokens=tokens, ignore_end=True)


async def test_a_beginning_that_is_long_past_the_window_is_read_again_or_still_there(
    gemma: Path, make_engine: MakeEngine
) -> None:
    used = make_engine(gemma, parallel=2)
    beginning = "What is 12+25? Work it out column by column, and "
    first = await used.generate(request(beginning + "say why.", 120))
    assert len(set(first.token_ids)) > 5
    for end in ("be brief.", "say why.", "take your time."):
        fresh = await make_engine(gemma, parallel=2).generate(request(beginning + end))
        found = await used.generate(request(beginning + end))
        assert found.token_ids == fresh.token_ids


async def test_a_free_slot_keeps_its_memory_while_others_decode(
    gemma: Path, make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Payoff, "pays", lambda *_: True)
    engine = make_engine(gemma, parallel=4)
    prompts = [f"What is {number}+25?" for number in (12, 31, 47, 58)]
    alone = [(await engine.generate(request(prompt))).token_ids for prompt in prompts]
    together = [request(p, tokens) for p, tokens in zip(prompts, (60, 3, 60, 60), strict=True)]
    found = await asyncio.gather(*(engine.generate(one) for one in together))
    for one, tokens in zip(found, alone, strict=True):
        assert one.token_ids == tokens[: len(one.token_ids)]
    head = engine.model.tokenize(prompts[1])
    onward = GenerateRequest((*head, *alone[1][:3]), max_tokens=50, ignore_end=True)
    assert (await engine.generate(onward)).token_ids == alone[1][3:53]


async def test_a_running_generation_is_handed_over(gemma: Path, make_engine: MakeEngine) -> None:
    here, there = make_engine(gemma, parallel=2), make_engine(gemma, parallel=2)
    asked = request("What is 12+25?", 200)
    whole = await here.generate(asked)
    generation = await here.start(asked)
    await anext(aiter(generation))
    resumed = await there.resume(await generation.suspend())
    assert (await resumed.completion()).token_ids == whole.token_ids
