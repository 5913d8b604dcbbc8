"""A run's folder: every event as a line of JSON, other files written whole or not at all."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


class EventLog:
    """Appends events to events.jsonl; each is on disk before the next."""

    def __init__(self, folder: Path) -> None:
        self._file = (folder / "events.jsonl").open("a", encoding="utf-8", buffering=1)
        self._started_s = time.monotonic()

    def write(self, kind: str, /, **fields: Any) -> dict[str, Any]:
        """Append one event; returns it as written."""
        event = {
            "event": kind,
            "unix_ns": time.time_ns(),
            "run_s": round(time.monotonic() - self._started_s, 6),
            **fields,
        }
        self._file.write(json.dumps(event) + "\n")
        return event

    def __enter__(self) -> EventLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()


def read_events(folder: Path) -> list[dict[str, Any]]:
    """Read a run's events in order; a line cut off by a kill is left out."""
    events = []
    for line in (folder / "events.jsonl").read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            events.append(json.loads(line))
    return events
