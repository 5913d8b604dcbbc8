"""docs/ask-a-fleet.md is true: its commands, settings and script are run as they stand there."""

from __future__ import annotations

import asyncio
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from agents import MODELS, PATIENCE_S, ROOT, Agents, free_port

PROGRAMS = Path(sys.executable).parent
PORTS = ("50051", "50061", "50062")


class Page:
    """The page's blocks, with ports that are free here in place of its own."""

    def __init__(self) -> None:
        text = (ROOT / "docs/ask-a-fleet.md").read_text(encoding="utf-8")
        for port in PORTS:
            text = text.replace(f"127.0.0.1:{port}", f"127.0.0.1:{free_port()}")
        block = r"^`(\S+)`[^\n]*:\n\n```\w+\n([\s\S]*?)^```$"
        self.files: dict[str, str] = dict(re.findall(block, text, re.M))
        self.commands = [shlex.split(line) for line in re.findall(r"^\$ (.+)$", text, re.M)]

    def commands_of(self, program: str) -> list[list[str]]:
        """The arguments of each command that runs a program of the virtual environment."""
        return [rest for first, *rest in self.commands if first == f".venv/bin/{program}"]


class Fleet:
    """The page's cloud and boards, as processes."""

    def __init__(self, page: Page, agents: Agents) -> None:
        self.page, self.agents = page, agents

    async def start(self, program: str, settings: str) -> None:
        data = yaml.safe_load(self.page.files[settings])
        self.last = await self.agents.start(
            program.removesuffix("-agent"), settings.removesuffix(".yaml"), data
        )

    async def start_all(self) -> None:
        for program in ("cloud-agent", "device-agent"):
            for _, settings, _ in self.page.commands_of(program):
                await self.start(program, settings)
                if program == "cloud-agent":
                    self.cloud = self.last

    async def ask(self, *arguments: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "ask.py",
            *arguments,
            cwd=self.agents.folder,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )


@pytest.fixture
def page(tmp_path: Path) -> Page:
    """The page, with its files, the models and its certificates in the agents' folder."""
    page = Page()
    for name, text in page.files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "models").symlink_to(MODELS["cloud"].parent)
    for arguments in page.commands_of("testbed"):
        subprocess.run(
            [PROGRAMS / "testbed", *arguments], cwd=tmp_path, check=True, capture_output=True
        )
    return page


@pytest.fixture
async def fleet(page: Page, agents: Agents) -> Fleet:
    fleet = Fleet(page, agents)
    await fleet.start_all()
    for board in ("board-a", "board-b"):
        await until_said(fleet, board, "connected to")
    return fleet


async def until_said(fleet: Fleet, agent: str, words: str) -> None:
    async def look() -> None:
        while words not in (fleet.agents.folder / f"{agent}.log").read_text(encoding="utf-8"):
            await asyncio.sleep(0.05)

    await asyncio.wait_for(look(), PATIENCE_S)


async def printed(asking: asyncio.subprocess.Process) -> list[str]:
    """What the script prints, without the boards' addresses; it must end well."""
    out, err = await asyncio.wait_for(asking.communicate(), PATIENCE_S)
    assert asking.returncode == 0, err.decode()
    return [line.split(" ", 1)[1] for line in out.decode().splitlines()]


def outcome(lines: list[str]) -> list[str]:
    """What does not depend on speed: a text comes in pieces."""
    return [line for line in lines if not line.startswith("text:")]


async def test_the_page_is_true(fleet: Fleet) -> None:
    key, question = fleet.page.commands_of("python")[0][1:]
    first = outcome(await printed(await fleet.ask(key, question)))
    kinds = [line.split()[0] for line in first]
    assert kinds == ["started", "result:", "started", "set_aside", "result:"]
    assert first[1] == "result: 132 from board-a"
    assert first[-1] == "result: 132 from cloud"
    assert "is below the threshold 0.5" in first[3]

    again = outcome(await printed(await fleet.ask(key, question)))
    assert [line for line in again if line.startswith(("started", "result:"))] == [
        line for line in first if line.startswith(("started", "result:"))
    ], "the same runs, the same answers"

    same_key, other_question = fleet.page.commands_of("python")[1][1:]
    assert same_key == key
    refused = await fleet.ask(same_key, other_question)
    _, err = await asyncio.wait_for(refused.communicate(), PATIENCE_S)
    assert refused.returncode == 1
    assert "StatusCode.ALREADY_EXISTS" in err.decode()

    assert await fleet.cloud.stop() == 0
    for board in ("board-a", "board-b"):
        await until_said(fleet, board, "cloud lost")
    waiting = await fleet.ask("sum-2", question)
    assert waiting.stdout is not None
    while b"result: 132 from board-a" not in await asyncio.wait_for(
        waiting.stdout.readline(), PATIENCE_S
    ):
        assert not waiting.stdout.at_eof()
    assert b"started" in await asyncio.wait_for(waiting.stdout.readline(), PATIENCE_S)
    await fleet.start("cloud-agent", "cloud.yaml")
    assert (await printed(waiting))[-1] == "result: 132 from cloud"
