"""Which process holds a lease: numbers are used again, and clocks are set."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_ENDED = "ZX"
"""States of what is dead, though its parent has not asked yet."""


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process, told apart from all others that ever had its number."""

    pid: int
    start_ticks: int
    """From the machine's start to the process's: setting the clock does not change it."""
    boot_id: str
    pid_namespace: int
    """Where it has that number."""

    @classmethod
    def current(cls) -> ProcessIdentity:
        """This process's."""
        pid = os.getpid()
        _, start_ticks = _stat(pid)
        return cls(pid, start_ticks, _boot_id(), _pid_namespace())

    @property
    def alive(self) -> bool:
        """Whether it lives; of one in another PID namespace, which is not seen from here, True."""
        if self.boot_id != _boot_id():
            return False
        if self.pid_namespace != _pid_namespace():
            return True
        try:
            state, start_ticks = _stat(self.pid)
        except (FileNotFoundError, ProcessLookupError):
            return False
        return start_ticks == self.start_ticks and state not in _ENDED


def _stat(pid: int) -> tuple[str, int]:
    text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    # The program's name, in brackets, may hold anything; the state is the third field.
    fields = text.rpartition(")")[2].split()
    return fields[0], int(fields[19])


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _pid_namespace() -> int:
    return Path("/proc/self/ns/pid").stat().st_ino
