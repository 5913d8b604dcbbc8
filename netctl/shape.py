"""Shape an interface of this machine, and restore it whatever happens.

Three lines of defence: the command itself, a guardian process that outlives a kill -9 of the
command, and a journal from which `netctl restore` undoes what a kill -9 of both left.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

from netctl.backends.netem import netem_arguments
from netctl.capabilities import probe
from netctl.conditions import DirectionConditions
from netctl.execute import run, run_json
from protos.errors import LinkError, UnsupportedConditionError

JOURNAL = Path("/run/airloom/netctl")
_HANDLE = "a1f0:"
"""The handle of every qdisc made here: what bears another is not ours and is never touched."""


def _root_qdisc(interface: str) -> dict[str, object] | None:
    shown = run_json(("tc", "-j", "qdisc", "show", "dev", interface, "root"))
    qdiscs = [q for q in shown or [] if q.get("root")]
    return qdiscs[0] if qdiscs else None


def _remove(interface: str) -> bool:
    """Remove our qdisc; False where there is none (or the interface is gone)."""
    try:
        qdisc = _root_qdisc(interface)
    except LinkError:
        return False
    if qdisc is None or qdisc.get("handle") != _HANDLE:
        return False
    run(("tc", "qdisc", "del", "dev", interface, "root", "handle", _HANDLE))
    return True


def _alive(entry: dict[str, float]) -> bool:
    try:
        return psutil.Process(int(entry["pid"])).create_time() == entry["started"]
    except psutil.NoSuchProcess:
        return False


def restore() -> list[str]:
    """Undo what dead commands left; return the interfaces restored."""
    restored = []
    for path in sorted(JOURNAL.glob("*.json")) if JOURNAL.exists() else []:
        if _alive(json.loads(path.read_text(encoding="utf-8"))):
            continue
        if _remove(path.stem):
            restored.append(path.stem)
        path.unlink(missing_ok=True)
    return restored


@contextlib.contextmanager
def _journalled(interface: str) -> Iterator[None]:
    JOURNAL.mkdir(parents=True, exist_ok=True)
    path = JOURNAL / f"{interface}.json"
    entry = {"pid": os.getpid(), "started": psutil.Process().create_time()}
    try:
        with path.open("x", encoding="utf-8") as file:
            json.dump(entry, file)
    except FileExistsError:
        raise LinkError(f"{interface} is being shaped by another netctl ({path})") from None
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _guard(interface: str) -> None:
    """Fork a process that restores the interface when this one ends, however it ends."""
    reader, writer = os.pipe()
    if os.fork() != 0:
        os.close(reader)
        # The write end stays open, unread, until this process ends.
        os.set_inheritable(writer, False)
        return
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.close(writer)
    os.read(reader, 1)
    _remove(interface)
    (JOURNAL / f"{interface}.json").unlink(missing_ok=True)
    os._exit(0)


def shape(interface: str, conditions: DirectionConditions, duration_ms: float | None) -> None:
    """Shape what leaves an interface until SIGINT, SIGTERM or the time is over, then restore.

    Raises:
        UnsupportedConditionError: the kernel lacks netem.
        LinkError: the interface does not exist or carries somebody's own qdisc.
    """
    missing = probe().netem
    if missing is not None:
        raise UnsupportedConditionError(
            f"an interface can only be shaped in place by netem, which this kernel lacks: {missing} "
            "`testbed run` builds links that need no kernel support"
        )
    restore()
    present = _root_qdisc(interface)
    # A default qdisc has handle 0: somebody else's explicit one has not.
    if present is not None and present.get("handle") not in ("0:", None):
        raise LinkError(
            f"{interface} already carries a {present.get('kind')} qdisc (handle "
            f"{present.get('handle')}) that netctl did not make; it is left alone"
        )
    signals = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    with _journalled(interface):
        _guard(interface)
        arguments = netem_arguments(conditions)
        run(
            ("tc", "qdisc", "add", "dev", interface, "root", "handle", _HANDLE, "netem", *arguments)
        )
        try:
            shown = _root_qdisc(interface)
            print(f"{interface} is shaped: {json.dumps(shown)}", file=sys.stderr, flush=True)
            if duration_ms is None:
                signal.sigwait(signals)
            else:
                signal.sigtimedwait(signals, duration_ms / 1e3)
        finally:
            _remove(interface)
    print(f"{interface} is restored", file=sys.stderr)
