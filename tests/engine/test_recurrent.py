"""Models whose memory is a state: what was read cannot be taken back, only read anew."""

import asyncio
import dataclasses
from pathlib import Path

import pytest
from engines import MakeEngine
from files import write_mamba

from device_agent.engine import GenerateRequest
from device_agent.engine.memory import estimate, read_shape
from device_agent.engine.payoff import Payoff
from protos.errors import ModelLoadError


@pytest.fixture(scope="module")
def mamba(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mamba(tmp_path_factory.mktemp("mamba") / "mamba.gguf")


def request(prompt: str, tokens: int = 40) -> GenerateRequest:
    return GenerateRequest(prompt, max_tokens=tokens, ignore_end=True)


async def test_the_same_question_has_the_same_answer(mamba: Path, make_engine: MakeEngine) -> None:
    engine = make_engine(mamba)
    first = await engine.generate(request("What is 12+25?"))
    assert len(set(first.token_ids)) > 5
    for stop in ((), ("\N{SNOWMAN}",)):
        asked = dataclasses.replace(request("What is 12+25?"), stop=stop)
        assert (await engine.generate(asked)).token_ids == first.token_ids
    longer = request("What is 12+25? And then?")
    expected = await make_engine(mamba).generate(longer)
    assert (await engine.generate(longer)).token_ids == expected.token_ids


async def test_a_free_slot_keeps_its_state_while_others_decode(
    mamba: Path, make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Payoff, "pays", lambda *_: True)
    engine = make_engine(mamba, parallel=4)
    prompts = [f"What is {number}+25?" for number in (12, 31, 47, 58)]
    alone = [(await engine.generate(request(prompt))).token_ids for prompt in prompts]
    # The second leaves early: its slot lies between others, and knows what it has written.
    together = [request(p, tokens) for p, tokens in zip(prompts, (40, 3, 40, 40), strict=True)]
    found = await asyncio.gather(*(engine.generate(one) for one in together))
    for one, tokens in zip(found, alone, strict=True):
        assert one.token_ids == tokens[: len(one.token_ids)]
    # Goes on where the early one ended.
    head = engine.model.tokenize(prompts[1])
    onward = GenerateRequest((*head, *alone[1][:3]), max_tokens=30, ignore_end=True)
    assert (await engine.generate(onward)).token_ids == alone[1][3:33]


async def test_a_state_is_handed_over(mamba: Path, make_engine: MakeEngine) -> None:
    here, there = make_engine(mamba, parallel=2), make_engine(mamba, parallel=2)
    asked = request("What is 12+25?", 240)
    whole = await here.generate(asked)
    generation = await here.start(asked)
    await anext(aiter(generation))
    resumed = await there.resume(await generation.suspend())
    assert (await resumed.completion()).token_ids == whole.token_ids


def test_a_state_takes_as_much_however_long_the_context_is(mamba: Path) -> None:
    shape = read_shape(mamba)
    assert shape.key_values == 0
    # The last three inputs of the convolution, and eight numbers for each of 64 channels.
    assert shape.state == 3 * 64 + 8 * 64
    short, long = (
        estimate(
            dataclasses.replace(shape, trained_context_tokens=1 << 20),
            parallel=4,
            context_tokens=tokens,
            batch_tokens=1,
            key_value_type="f16",
            outputs=4,
        ).cache
        for tokens in (256, 1 << 20)
    )
    assert short == long == 4 * 2 * shape.state * 4


def test_drafts_are_refused(mamba: Path, make_engine: MakeEngine) -> None:
    with pytest.raises(ModelLoadError, match="a wrong guess cannot be taken back"):
        make_engine(mamba, draft="mathematics")
