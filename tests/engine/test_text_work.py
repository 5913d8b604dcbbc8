"""Work on others' text: off the event loop, bounded in stack, time and number."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from engines import ROOT, MakeEngine
from files import write_byte_level

from airloom.errors import (
    DeadlineExceededError,
    InvalidTaskError,
    OverloadedError,
    UnsupportedByModelError,
)
from device_agent.engine import GenerateRequest
from device_agent.engine.text_work import TextWork
from device_agent.engine.tokenizer import LONGEST_PIECE

_ASK = """
import asyncio, pathlib, sys
from airloom.errors import InvalidTaskError
from device_agent.engine import Engine, EngineSettings, GenerateRequest, Model

async def main():
    for file in sys.argv[1:]:
        engine = Engine(Model(pathlib.Path(file)), EngineSettings(threads=1, context_tokens=512))
        for character in "a!\u4e2d 1":
            try:
                await engine.start(GenerateRequest(character * 32_000))
            except InvalidTaskError as error:
                print(error)
        print("still here:", len((await engine.generate(GenerateRequest("1+1"))).tokens) > 0)
        engine.close()

asyncio.run(main())
"""


def test_a_long_run_of_one_class_ends_no_process(tmp_path: Path) -> None:
    kinds = ("tekken", "deepseek-llm", "deepseek-coder", "deepseek-v3", "gpt-4o", "falcon")
    # A long special token, so that the bytes alone do not tell how many tokens there will be.
    files = [
        str(write_byte_level(tmp_path / f"{kind}.gguf", kind, end="<|" + "end" * 100 + "|>"))
        for kind in kinds
    ]
    done = subprocess.run(
        [sys.executable, "-c", _ASK, *files], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines.count("still here: True") == len(kinds)
    refused = [line for line in lines if "the model's context only 512" in line]
    assert len(refused) == 5 * len(kinds)


async def test_what_cannot_fit_is_refused_by_its_bytes(
    tmp_path: Path, make_engine: MakeEngine
) -> None:
    engine = make_engine(write_byte_level(tmp_path / "m.gguf"), context_tokens=512)
    with pytest.raises(UnsupportedByModelError, match=r"at least .* tokens of at most 7 bytes"):
        await engine.start(GenerateRequest("ab " * 2_000_000))
    with pytest.raises(UnsupportedByModelError, match="512 are taken here"):
        await engine.tokenize("ab" * 2_000_000)


async def test_a_piece_that_would_take_too_much_stack_is_refused(
    tmp_path: Path, make_engine: MakeEngine
) -> None:
    file = write_byte_level(tmp_path / "m.gguf", end="<|" + "end" * 1000 + "|>")
    engine = make_engine(file)
    with pytest.raises(InvalidTaskError, match="bytes in a row without a space"):
        await engine.tokenize("a" * (LONGEST_PIECE + 1))


async def test_the_loop_goes_on_and_the_asker_gets_an_error_at_the_limit() -> None:
    work, gate = TextWork(threads=1, limit_s=0.05), threading.Event()
    with pytest.raises(InvalidTaskError, match=r"reading takes longer than 0\.05 s"):
        await work.run("reading", gate.wait)
    with pytest.raises(OverloadedError, match="1 of 1 threads are past their limit"):
        await work.run("more", lambda: 1)
    gate.set()
    await asyncio.to_thread(work.close)


async def test_what_waits_too_long_is_told_so_and_a_deadline_ends_the_wait() -> None:
    work, gate = TextWork(threads=1, limit_s=30), threading.Event()
    first = asyncio.ensure_future(work.run("reading", gate.wait))
    await asyncio.sleep(0)
    with pytest.raises(DeadlineExceededError, match="before more was done"):
        await work.run("more", lambda: 1, deadline_s=time.monotonic())
    second = asyncio.ensure_future(work.run("other", lambda: 2))
    gate.set()
    assert await first is True
    assert await second == 2
    await asyncio.to_thread(work.close)


async def test_whatever_the_work_raises_reaches_its_asker() -> None:
    work = TextWork()
    with pytest.raises(ZeroDivisionError):
        await work.run("a sum", lambda: 1 / 0)
    assert await work.run("another", lambda: 3) == 3


async def test_one_after_the_other_can_be_done_as_often_as_wanted() -> None:
    work = TextWork(threads=1)
    assert [await work.run("a number", lambda n=n: n) for n in range(300)] == list(range(300))


async def test_work_whose_asker_left_is_not_held_against_others() -> None:
    work, gate = TextWork(threads=1, limit_s=30), threading.Event()
    left = asyncio.ensure_future(work.run("reading", gate.wait))
    await asyncio.sleep(0)
    left.cancel()
    await asyncio.gather(left, return_exceptions=True)
    following = asyncio.ensure_future(work.run("more", lambda: 1))
    gate.set()
    assert await following == 1
