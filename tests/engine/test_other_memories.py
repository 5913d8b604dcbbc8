"""Models that remember otherwise: by a state, which cannot be cut, or the last tokens in some layers."""

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import pytest
from engines import Gate, MakeEngine, suspended, together
from files import write_gemma, write_mamba

from airloom.errors import ModelLoadError
from device_agent.engine import Completion, GenerateRequest
from device_agent.engine.context import Batch, DecodeError
from device_agent.engine.memory_estimate import estimate, read_shape
from device_agent.engine.sequence import Sequence

WINDOW = 16


@pytest.fixture(scope="module")
def mamba(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mamba(tmp_path_factory.mktemp("mamba") / "mamba.gguf")


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gemma(tmp_path_factory.mktemp("gemma") / "gemma.gguf", WINDOW)


@pytest.fixture(params=["mamba", "gemma"])
def model(request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue(request.param)
    return path


def request(prompt: str, tokens: int = 60) -> GenerateRequest:
    return GenerateRequest(prompt, max_tokens=tokens, ignore_end=True)


async def test_a_used_engine_says_what_a_fresh_one_does(
    model: Path, make_engine: MakeEngine
) -> None:
    used = make_engine(model, parallel=2)
    # More than the window, so that some layers have left the beginning behind.
    beginning = "What is 12+25? Work it out column by column, and "
    first = await used.generate(request(beginning + "say why.", 120))
    assert len(set(first.token_ids)) > 5
    for end in ("be brief.", "say why.", "say why. And then?", "take your time."):
        fresh = await make_engine(model, parallel=2).generate(request(beginning + end))
        found = await used.generate(request(beginning + end))
        assert found.token_ids == fresh.token_ids


async def test_looking_at_each_token_changes_nothing(model: Path, make_engine: MakeEngine) -> None:
    engine = make_engine(model)
    first = await engine.generate(request("What is 12+25?"))
    looked_at = dataclasses.replace(request("What is 12+25?"), stop=("\N{SNOWMAN}",))
    assert (await engine.generate(looked_at)).token_ids == first.token_ids


@pytest.mark.usefixtures("everything_pays")
async def test_a_free_slot_keeps_its_memory_while_others_decode(
    model: Path, make_engine: MakeEngine, gate: Gate
) -> None:
    engine = make_engine(model, parallel=4)
    prompts = [f"What is {number}+25?" for number in (12, 31, 47, 58)]
    alone = [(await engine.generate(request(prompt))).token_ids for prompt in prompts]
    # The second leaves early: its slot lies between others, and knows what it has written.
    asked = [request(p, tokens) for p, tokens in zip(prompts, (60, 3, 60, 60), strict=True)]
    found = await together(engine, asked, gate)
    for one, tokens in zip(found, alone, strict=True):
        assert one.token_ids == tokens[: len(one.token_ids)]
    # Goes on where the early one ended.
    head = engine.model.tokenize(prompts[1])
    onward = GenerateRequest((*head, *alone[1][:3]), max_tokens=50, ignore_end=True)
    assert (await engine.generate(onward)).token_ids == alone[1][3:53]


async def test_a_running_generation_is_handed_over(
    model: Path, make_engine: MakeEngine, gate: Gate
) -> None:
    here, there = make_engine(model, parallel=2), make_engine(model, parallel=2)
    asked = request("What is 12+25?", 200)
    whole = await here.generate(asked)
    gate.shut(after=10)
    resumed = await there.resume(await suspended(await here.start(asked), gate))
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


def test_drafts_for_a_state_are_refused(mamba: Path, make_engine: MakeEngine) -> None:
    with pytest.raises(ModelLoadError, match="a wrong guess cannot be taken back"):
        make_engine(mamba, draft="mathematics")


async def test_a_refused_pass_ends_who_is_at_fault(
    model: Path, make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp looks at all tokens first: what it refuses then has changed no memory."""
    original = Sequence.extend

    def broken(self: Sequence, *arguments: Any) -> Any:
        reason = original(self, *arguments)
        if self.request.prompt == "Who?" and len(self.generated) == 5:
            self.tokens[-1] = 1 << 20
        return reason

    engine = make_engine(model, parallel=3)
    # A stop string: each token is looked at before the next.
    innocent = dataclasses.replace(request("What is 12+25?"), stop=("\N{SNOWMAN}",))
    expected = await engine.generate(innocent)
    monkeypatch.setattr(Sequence, "extend", broken)
    culprit = dataclasses.replace(innocent, prompt="Who?")
    first, fault, second = await asyncio.gather(
        *(engine.generate(one) for one in (innocent, culprit, innocent)), return_exceptions=True
    )
    assert isinstance(first, Completion)
    assert isinstance(second, Completion)
    assert first.token_ids == second.token_ids == expected.token_ids
    assert isinstance(fault, DecodeError)
    # Who comes after finds no trace of it.
    assert (await engine.generate(innocent)).token_ids == expected.token_ids


async def test_a_state_that_went_too_far_is_not_used_again(
    mamba: Path, make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch, gate: Gate
) -> None:
    """A pass that failed after it was done: a recurrent memory cannot be taken back."""
    engine = make_engine(mamba, parallel=2)
    expected = await engine.generate(request("What is 12+25?"))
    context = engine._contexts.first.context
    original = context.decode

    def too_late(batch: Batch) -> Any:
        logits = original(batch)
        if batch.output_count == 2:
            raise DecodeError("llama.cpp could not decode (status -3)")
        return logits

    with monkeypatch.context() as patch:
        patch.setattr(context, "decode", too_late)
        gate.shut()
        started = [await engine.start(request("What is 12+25?")) for _ in range(2)]
        gate.open()
        both = await asyncio.gather(*(one.completion() for one in started), return_exceptions=True)
    assert [type(one) for one in both] == [DecodeError] * 2
    assert (await engine.generate(request("What is 12+25?"))).token_ids == expected.token_ids
