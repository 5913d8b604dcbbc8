"""Servers of OpenAI's API behind the cloud that do not keep to it, and a file that holds no number."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import grpc

from benchmarks.attacks.attack import (
    Attack,
    Outcome,
    Site,
    Stage,
    each_of,
    infer_request,
    outcome_of,
    task,
    together,
)
from benchmarks.attacks.faulty_server import FAULTS, MODEL, FaultyServer
from benchmarks.attacks.stages import fleet_of_one
from benchmarks.runtime.llama_cpp_programs import free_port

_UNAVAILABLE = (grpc.StatusCode.UNAVAILABLE,)


def _stage(folder: Path) -> Stage:
    """A board that asks the cloud everything, which asks the faulty server."""
    port = free_port()
    engines = {
        "servers": [{"url": f"http://127.0.0.1:{port}/v1", "model": MODEL}],
        "check_interval_s": 0.5,
    }
    stage = fleet_of_one(folder, asked="board-a", cloud={"model": None, "engines": engines})
    return stage.with_helpers(FaultyServer(port))


async def _send(fault: str, site: Site) -> Outcome:
    """By the board, which has an answer of its own to fall back on; and of the cloud itself."""
    asked = task(f"What is 12+25? {fault}")
    async with site.inference("board-a") as board, site.inference("cloud") as cloud:
        return together(
            await outcome_of(board.Infer(infer_request(asked))),
            # That the server does not answer is what this error says.
            await outcome_of(cloud.Infer(infer_request(asked)), allowed=_UNAVAILABLE),
        )


_EPOCH = "epoch"


def _board_with_epoch(folder: Path) -> Stage:
    (folder / _EPOCH).write_text("1\n", encoding="ascii")
    return fleet_of_one(folder, board={"link_epoch_file": str(folder / _EPOCH)})


async def _write_text(content: bytes, site: Site) -> Outcome:
    file = site.folder / _EPOCH
    file.write_bytes(content)
    try:
        async with site.inference("board-a") as board, site.inference("cloud") as cloud:
            return together(
                await outcome_of(board.Infer(infer_request(task("What is 12+25?")))),
                await outcome_of(cloud.Infer(infer_request(task("What is 12+25?"), "board-a"))),
            )
    finally:
        file.write_bytes(b"1\n")


_GROUPS = {
    "bad-json": ("bad-json",),
    "no-top_logprobs": ("no-top_logprobs",),
    "other-types": ("text-as-logprob", "content-is-a-number", "choices-is-null", "html"),
    "broken": ("empty-body", "closes-midway", "status-500", "redirect-to-itself"),
    "silent": ("silent",),
    "line-without-end": ("line-without-end",),
}
assert sorted(FAULTS) == sorted(fault for faults in _GROUPS.values() for fault in faults)
_EPOCHS = {"text": b"five", "bytes": b"\xff\xfe\x00", "long": b"9" * 10_000}

ATTACKS = (
    *(
        Attack(f"server/{group}", f"a server behind the cloud: {', '.join(faults)}", _stage,
               each_of({fault: partial(_send, fault) for fault in faults}), limit_s=60)
        for group, faults in _GROUPS.items()
    ),
    Attack("link-epoch", "text, bytes and 10,000 digits in the link-epoch file", _board_with_epoch,
           each_of({name: partial(_write_text, content) for name, content in _EPOCHS.items()}),
           limit_s=60),
)  # fmt: skip
