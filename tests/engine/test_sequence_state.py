"""A generation leaves one engine and goes on in another, in this process and in another one."""

import asyncio
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from engines import MODELS, ROOT, Gate, MakeEngine
from engines import suspended as taken_out
from files import Lora, random_network, write_network
from hypothesis import given, settings
from hypothesis import strategies as st

from airloom.errors import CancelledTaskError, InvalidTaskError
from device_agent.engine import (
    AdapterUse,
    Engine,
    GenerateRequest,
    Sampling,
    SequenceState,
)


async def suspended(
    engine: Engine, request: GenerateRequest, after: int, gate: Gate
) -> SequenceState:
    gate.shut(after)
    generation = await engine.start(request)
    state = await taken_out(generation, gate)
    with pytest.raises(CancelledTaskError, match="handed over"):
        await generation.completion()
    return state


@pytest.mark.parametrize(
    "request_",
    [
        GenerateRequest("", max_tokens=150),
        GenerateRequest(
            "", max_tokens=150, sampling=Sampling(temperature=1.2, top_k=20, seed=7,
                                                   frequency_penalty=0.3), stop=("zzz",)
        ),
        GenerateRequest("", max_tokens=100, sampling=Sampling(temperature=1.0, seed=3),
                        grammar='root ::= "a" [0-9 ]{59}'),
    ],
    ids=["greedy", "sampled", "grammar"],
)  # fmt: skip
async def test_nothing_shows_that_a_generation_moved(
    request_: GenerateRequest, make_engine: MakeEngine, gate: Gate
) -> None:
    here, there = make_engine(), make_engine(parallel=2)
    prompt = here.model.user_prompt("What is 128+255?")
    request = replace(request_, prompt=prompt, ignore_end=True)
    expected = await here.generate(request)
    state = SequenceState.from_bytes((await suspended(here, request, 12, gate)).to_bytes())
    assert 12 <= len(state.generated) < len(expected.tokens)
    # Another sequence keeps the new engine busy meanwhile.
    other = await there.start(GenerateRequest("1+1", max_tokens=300, ignore_end=True))
    generation = await there.resume(state)
    rest = "".join([delta.text async for delta in generation])
    completion = await generation.completion()
    other.cancel()
    assert completion.text == expected.text
    assert completion.text.endswith(rest)
    assert completion.token_ids == expected.token_ids
    assert completion.prompt_tokens == expected.prompt_tokens
    assert completion.logprobs == pytest.approx(expected.logprobs, abs=0.02)


async def test_an_adapter_goes_along(tmp_path: Path, make_engine: MakeEngine, gate: Gate) -> None:
    base = write_network(random_network(), tmp_path / "base.gguf")
    files = {seed: Lora(seed).write(tmp_path / f"{seed}.gguf") for seed in (2, 3)}
    here, there = make_engine(base), make_engine(base)
    await here.load_adapter("style", files[2])
    request = GenerateRequest(
        "Who?", adapters=(AdapterUse("style", 0.7),), max_tokens=240, ignore_end=True
    )
    expected = await here.generate(request)
    state = await suspended(here, request, 20, gate)
    with pytest.raises(InvalidTaskError, match="no adapter 'style'"):
        await there.resume(state)
    await there.load_adapter("style", files[2])
    generation = await there.resume(state)
    assert (await generation.completion()).token_ids == expected.token_ids
    stranger = make_engine(base)
    await stranger.load_adapter("style", files[3])
    with pytest.raises(InvalidTaskError, match="another file"):
        await stranger.resume(state)


async def test_another_process_goes_on(tmp_path: Path, make_engine: MakeEngine, gate: Gate) -> None:
    engine = make_engine()
    prompt = engine.model.user_prompt("What is 128+255?")
    request = GenerateRequest(prompt, max_tokens=150)
    expected = (await engine.generate(request)).text
    file = tmp_path / "state"
    file.write_bytes((await suspended(engine, request, 5, gate)).to_bytes())
    program = (
        "import asyncio, pathlib, sys\n"
        "from device_agent.engine import *\n"
        "async def main():\n"
        "    engine = Engine(Model(pathlib.Path(sys.argv[1])), EngineSettings(threads=1))\n"
        "    state = SequenceState.from_bytes(pathlib.Path(sys.argv[2]).read_bytes())\n"
        "    print((await (await engine.resume(state)).completion()).text)\n"
        "    engine.close()\n"
        "asyncio.run(main())\n"
    )
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", program, MODELS["mathematics"], file],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.removesuffix("\n") == expected


async def test_a_state_goes_only_where_it_fits(make_engine: MakeEngine, gate: Gate) -> None:
    here = make_engine()
    request = GenerateRequest("1+1", max_tokens=300, ignore_end=True)
    state = await suspended(here, request, 100, gate)
    with pytest.raises(InvalidTaskError, match="the state is of a model with SHA-256"):
        await make_engine("symbolic").resume(state)
    with pytest.raises(InvalidTaskError, match="are f16, this engine's q8_0"):
        await make_engine(key_value_type="q8_0").resume(state)
    with pytest.raises(InvalidTaskError, match="this engine's context only 64"):
        await make_engine(context_tokens=64).resume(state)
    ended = await here.start(GenerateRequest("1+1", max_tokens=1))
    await ended.completion()
    with pytest.raises(InvalidTaskError, match="ended before"):
        await ended.suspend()


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_a_changed_or_cut_state_is_refused(data: st.DataObject) -> None:
    state = SequenceState(
        "ab", "f16", {}, GenerateRequest("hello"), (1, 2, 3), 3, 2, 0, (), (), bytes(range(200))
    ).to_bytes()
    assert SequenceState.from_bytes(state).memory == bytes(range(200))
    at = data.draw(st.integers(0, len(state) - 1))
    changed = bytearray(state)
    changed[at] ^= data.draw(st.integers(1, 255))
    for wrong in (bytes(changed), state[:at]):
        with pytest.raises(InvalidTaskError):
            SequenceState.from_bytes(wrong)
