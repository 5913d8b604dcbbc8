"""What is handed over may have been made up: it is refused, and nobody else notices."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engines import MODELS, ROOT, MakeEngine
from engines import suspended as suspended_at
from files import write_gemma, write_mamba
from gates import Gate

from airloom.errors import DeadlineExceededError, InvalidTaskError
from device_agent.engine import Engine, EngineSettings, GenerateRequest, Model, SequenceState

HEAD = len(b"airloom sequence 2\n")


async def suspended(engine: Engine, **fields: Any) -> SequenceState:
    prompt = engine.model.user_prompt("What is 128+255?")
    generation = await engine.start(
        GenerateRequest(prompt, max_tokens=200, ignore_end=True, **fields)
    )
    async for _ in generation:
        break
    return await generation.suspend()


def forged(data: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """A state whose header was changed, with the right length and checksum."""
    start = HEAD + 8
    size = int.from_bytes(data[HEAD:start], "little")
    header = json.loads(data[start : start + size])
    change(header)
    text = json.dumps(header).encode()
    body = data[:HEAD] + len(text).to_bytes(8, "little") + text + data[start + size : -32]
    return body + hashlib.sha256(body).digest()


def put(*path: Any) -> Callable[[dict[str, Any]], None]:
    """A change that puts the last of `path` where the others lead."""
    *way, last, value = path

    def change(header: dict[str, Any]) -> None:
        at: Any = header
        for step in way:
            at = at[step]
        at[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("tokens", 0, 10_000_000), "the state has token 10000000; the vocabulary ends"),
        (put("tokens", 0, -1), "a token of the state is -1"),
        (put("tokens", 0, "x"), "a token of the state is 'x'"),
        (put("tokens", 0, 1.5), "a token of the state is 1.5"),
        (put("tokens", 7), "TypeError"),
        (put("tokens", []), "prompt_tokens is"),
        (lambda header: header.pop("tokens"), "KeyError"),
        (put("prompt_tokens", 0), "prompt_tokens is 0"),
        (put("prompt_tokens", 10**9), "prompt_tokens is 1000000000"),
        (put("position", 10**9), "position is 1000000000"),
        (put("position", -5), "position is -5"),
        (put("position", 0), "position is 0"),
        (put("draws", -1), "draws is -1"),
        (put("draws", 10**30), "draws is 1"),
        (put("generated", []), "0 generated ones"),
        (put("generated", 0, "token", 2), "generated ones, or others"),
        (put("generated", 0, "logprob", math.nan), "logprob in the state is nan"),
        (put("scores", []), "0 scores"),
        (put("scores", 0, "entropy", math.nan), "a score in the state is nan"),
        (put("scores", 0, "margin", "x"), "a score in the state is 'x'"),
        (put("scores", 0, "other", 1), "TypeError"),
        (put("adapter_sha256", {"gone": "ab"}), "no adapter 'gone' is loaded"),
        (put("request", "adapters", [{"name": "gone", "scale": 1}]), "which file adapter 'gone'"),
        (put("request", "adapters", [{"name": "gone", "scale": math.nan}]), "scale is nan"),
        (put("request", "max_tokens", 0), "max_tokens is 0"),
        (put("request", "scores", "yes"), "scores is 'yes'"),
        (put("request", "sampling", "min_p", 7), "min_p is 7"),
        (
            put("request", "sampling", "logit_bias", [[9_999_999, 1]]),
            "logit_bias has token 9999999",
        ),
        (put("request", "stop", [""]), r"stop\[0\] has 0 characters"),
        (put("request", "grammar", 'root ::= "never"'), "does not follow the state's grammar"),
        (put("request", "grammar", 3), "grammar is 3"),
        (put("request", "time_left_s", math.nan), "time left is nan"),
        (put("request", 3), "AttributeError|TypeError"),
        (put("layout", "f32"), "keys and values are f32"),
        (put("model_sha256", "00" * 32), "SHA-256 00000000"),
    ],
)
async def test_a_forged_header_is_refused_and_the_engine_goes_on(
    change: Callable[[dict[str, Any]], object], message: str, make_engine: MakeEngine
) -> None:
    engine = make_engine()
    data = (await suspended(engine)).to_bytes()
    with pytest.raises(InvalidTaskError, match=message):
        await engine.resume(await engine.read_state(forged(data, change)))
    whole = await engine.generate(GenerateRequest(engine.model.user_prompt("What is 12+25?")))
    assert whole.text.endswith("37")


async def test_a_header_that_is_none_is_refused(make_engine: MakeEngine) -> None:
    engine = make_engine()
    data = (await suspended(engine)).to_bytes()
    for size, text in ((5, b"[[[[["), (2**63, b"{}"), (2, b"[]"), (90_000, b"[" * 90_000)):
        body = data[:HEAD] + size.to_bytes(8, "little") + text
        with pytest.raises(InvalidTaskError, match="header"):
            await engine.read_state(body + hashlib.sha256(body).digest())
    with pytest.raises(InvalidTaskError, match="bytes: at most"):
        await engine.read_state(bytes(engine.max_state_bytes + 1))


_FORGE_MEMORY = """
import asyncio, pathlib, random, sys
from dataclasses import replace
from airloom.errors import AirloomError
from device_agent.engine import Engine, EngineSettings, GenerateRequest, Model

async def main(path):
    engine = Engine(Model(path), EngineSettings(threads=1, parallel=3))
    request = GenerateRequest("What is 12+25?", max_tokens=60, ignore_end=True)
    expected = await engine.generate(replace(request, max_tokens=12))
    generation = await engine.start(request)
    async for _ in generation:
        break
    state = await generation.suspend()
    choose = random.Random(1)
    counts = [0, 0]
    for round in range(60):
        memory = bytearray(state.memory)
        for _ in range(choose.randint(1, 4)):
            at = choose.randrange(min(len(memory), choose.choice((16, 64, 4096, 1 << 30))))
            memory[at : at + 4] = choose.choice(
                (b"\\xff" * 4, b"\\0" * 4, b"\\x01\\0\\0\\0", b"\\xff\\xff\\xff\\x7f", choose.randbytes(4))
            )[: len(memory) - at]
        if round % 6 == 0:
            memory = memory[: choose.randrange(len(memory))]
        other = await engine.start(request)
        try:
            await (await engine.resume(replace(state, memory=bytes(memory)))).completion()
            counts[0] += 1
        except AirloomError:
            counts[1] += 1
        assert (await other.completion()).completion_tokens == 60
    again = await engine.generate(replace(request, max_tokens=12))
    assert again.token_ids == expected.token_ids, "others do not reuse what was brought"
    print("resumed", counts[0], "refused", counts[1])
    engine.close()

for path in sys.argv[1:]:
    asyncio.run(main(pathlib.Path(path)))
"""


def test_forged_keys_and_values_harm_nobody_else(tmp_path: Path) -> None:
    files = [
        MODELS["mathematics"],
        write_gemma(tmp_path / "gemma.gguf", window=16),
        write_mamba(tmp_path / "mamba.gguf"),
    ]
    done = subprocess.run(
        [sys.executable, "-c", _FORGE_MEMORY, *map(str, files)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("refused") == len(files)


async def test_a_state_of_other_positions_is_refused(make_engine: MakeEngine) -> None:
    engine = make_engine()
    state = await suspended(engine)
    longer = await suspended(engine)
    shorter = replace(
        state,
        tokens=state.tokens[: state.prompt_tokens],
        position=state.prompt_tokens - 1,
        generated=(),
        scores=(),
    )
    for memory in (state.memory, longer.memory):
        generation = await engine.resume(replace(shorter, memory=memory))
        with pytest.raises(InvalidTaskError, match="do not fit"):
            await generation.completion()


async def test_a_deadline_travels_as_time_left(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine()
    state = await suspended(engine, deadline_s=time.monotonic() + 3600)
    data = state.to_bytes()
    now_s = time.monotonic()
    # Another machine's clock began at another time.
    monkeypatch.setattr("device_agent.engine.sequence_state.time.monotonic", lambda: now_s + 5e6)
    deadline_s = SequenceState.from_bytes(data).request.deadline_s
    monkeypatch.undo()
    assert deadline_s is not None
    assert 3000 < deadline_s - 5e6 - now_s <= 3600
    assert state.due(now_s + 1).request.deadline_s == now_s + 1
    assert state.due(now_s + 1e6).request.deadline_s == state.request.deadline_s
    with pytest.raises(DeadlineExceededError):
        await (await engine.resume(state, deadline_s=time.monotonic())).completion()


async def test_a_full_context_fits_into_what_is_taken(make_engine: MakeEngine) -> None:
    engine = make_engine()
    generation = await engine.start(
        GenerateRequest("1", max_tokens=370, ignore_end=True, top_logprobs=20)
    )
    seen = 0
    async for delta in generation:
        seen += len(delta.tokens)
        if seen >= 200:
            break
    data = (await generation.suspend()).to_bytes()
    assert len(data) < engine.max_state_bytes < 32 * len(data)
    resumed = await engine.resume(await engine.read_state(data))
    assert (await resumed.completion()).completion_tokens == 370


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
async def test_a_recurrent_state_that_is_no_number_is_not_taken_over(
    tmp_path: Path, gate: Gate, value: float
) -> None:
    path = write_mamba(tmp_path / "mamba.gguf")
    engine = Engine(Model(path), EngineSettings(threads=1, parallel=2))
    request = GenerateRequest("What is 12+25?", max_tokens=12, ignore_end=True)
    expected = (await engine.generate(request)).token_ids
    gate.shut(after=2)
    state = await suspended_at(await engine.start(request), gate)
    # The last row is the last layer's state.
    spoilt = state.memory[:-4] + np.float32(value).tobytes()
    with pytest.raises(InvalidTaskError, match="do not fit"):
        await (await engine.resume(replace(state, memory=spoilt))).completion()
    whole = await (await engine.resume(state)).completion()
    assert whole.token_ids == expected
    assert [(await engine.generate(request)).token_ids for _ in range(3)] == [expected] * 3
    await asyncio.to_thread(engine.close)
