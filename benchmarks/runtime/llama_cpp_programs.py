"""llama.cpp's own programs, built from the same source as the library that the engine uses."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import httpx

_ROOT = Path(__file__).parents[2]
_START_S = 120.0


@cache
def programs() -> Path:
    """The folder with llama-server and llama-bench, built where they are not there yet."""
    done = subprocess.run([_ROOT / "tools/peers.sh"], stdout=subprocess.PIPE, text=True, check=True)
    return Path(done.stdout.strip())


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@contextlib.contextmanager
def running(
    command: list[str],
    url: str,
    log: Path,
    probe: str = "/health",
    environment: Mapping[str, str] | None = None,
) -> Iterator[None]:
    """Run a server until the block ends; it is up when its `probe` answers."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
        try:
            deadline_s = time.monotonic() + _START_S
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if httpx.get(f"{url}{probe}").status_code == httpx.codes.OK:
                        break
                if process.poll() is not None or time.monotonic() > deadline_s:
                    raise RuntimeError(f"{command[0]} did not come up; see {log}")
                time.sleep(0.05)
            yield
        finally:
            process.terminate()
            process.wait(10)


@contextlib.contextmanager
def llama_server(
    model: Path, *, parallel: int, context_tokens: int, threads: int, log: Path
) -> Iterator[str]:
    """Run llama-server; yields its URL."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [
        str(programs() / "llama-server"), "--model", str(model), "--alias", model.stem,
        "--threads", str(threads), "--parallel", str(parallel),
        "--ctx-size", str(parallel * context_tokens), "--port", str(port), "--no-webui",
    ]  # fmt: skip
    with running(command, url, log):
        yield url


@dataclass(frozen=True, slots=True)
class Rates:
    """Prefill and decode, in tokens per second."""

    prefill: float
    decode: float


def llama_bench(model: Path, *, threads: int, prompt: int, generate: int) -> Rates:
    """Measure prefill and decode once with llama-bench, best known as pp and tg."""
    command = [
        str(programs() / "llama-bench"), "-m", str(model), "-t", str(threads), "-p", str(prompt),
        "-n", str(generate), "-r", "1", "-o", "json",
    ]  # fmt: skip
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    rows = json.loads(done.stdout)
    rate = {row["n_gen"] > 0: float(row["avg_ts"]) for row in rows}
    return Rates(prefill=rate[False], decode=rate[True])
