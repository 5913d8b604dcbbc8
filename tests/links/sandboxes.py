"""Sandboxes for tests, each in a process that has never used gRPC and has no threads.

A fork of the tests' own process would inherit locks that other threads hold: whatever needs one of
them then waits for ever. So the processes are forked from Python's fork server, which does nothing
else, and a function defined inside a test is sent there with what it refers to.
"""

from __future__ import annotations

import builtins
import importlib
import io
import marshal
import multiprocessing
import pickle
import signal
import sys
from collections.abc import Callable
from types import CellType, CodeType, FunctionType
from typing import Any

from _pytest.assertion import rewrite

from netctl import linux

_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["pytest", "psutil", "testbed.runner.links", "testbed.sandbox"])


class _Pickler(pickle.Pickler):
    """Takes functions that are defined in others, too."""

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, FunctionType) or "<locals>" not in value.__qualname__:
            return NotImplemented
        cells = tuple(cell.cell_contents for cell in value.__closure__ or ())
        code = marshal.dumps(value.__code__)
        return _function, (value.__module__, code, value.__defaults__, cells)


def _function(
    module: str, code: bytes, defaults: tuple[Any, ...] | None, cells: tuple[Any, ...]
) -> FunctionType:
    loaded: CodeType = marshal.loads(code)
    names = importlib.import_module(module).__dict__
    # What pytest has put into the functions that it collected: their failures are told as there.
    names.setdefault("@py_builtins", builtins)
    names.setdefault("@pytest_ar", rewrite)
    return FunctionType(loaded, names, None, defaults, tuple(map(CellType, cells)))


def run_in_sandbox(body: Callable[[], int]) -> int:
    """As `testbed.sandbox.run_in_sandbox`, from a fresh process; what `body` changes stays there."""
    pickled = io.BytesIO()
    _Pickler(pickled).dump(body)
    process = _PROCESSES.Process(target=_run, args=(pickled.getvalue(),))
    process.start()
    try:
        process.join()
    finally:
        process.kill()
    assert process.exitcode is not None
    return process.exitcode


def _run(pickled: bytes) -> None:
    from testbed import sandbox

    linux.die_with_parent(signal.SIGKILL)
    body: Callable[[], int] = pickle.loads(pickled)
    sys.exit(sandbox.run_in_sandbox(body))
