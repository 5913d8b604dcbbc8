"""Processors that do not sleep while latencies are measured."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

_SPIN = """
import os, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
while os.getppid() == int(sys.argv[2]): pass
"""


@contextlib.contextmanager
def awake() -> Iterator[None]:
    """Keep every processor from sleeping, by a process that gives way to all others.

    A virtual machine's processor takes some tenths of a millisecond to wake up, as often as
    something waits for something else: as much as is to be measured.
    """
    spinning = [
        subprocess.Popen([sys.executable, "-c", _SPIN, str(number), str(os.getpid())])
        for number in os.sched_getaffinity(0)
    ]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()
