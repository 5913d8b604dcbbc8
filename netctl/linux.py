"""The few system calls that Python's standard library lacks before 3.12."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

_MS_PRIVATE_RECURSIVE = (1 << 18) | (1 << 14)
_FIRST_PID_NAMESPACE = 0xEFFFFFFC
"""PROC_PID_INIT_INO, the same on every machine."""
_PR_SET_PDEATHSIG = 1
_PR_SET_TIMERSLACK = 29
_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """Give this process new namespaces (CLONE_NEW…)."""
    _check(_libc.unshare(flags), "unshare")


def unshare_as_root(flags: int) -> None:
    """Give this process new namespaces; without root, as root of a user namespace that holds them."""
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        unshare(flags)
        return
    unshare(flags | CLONE_NEWUSER)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"0 {uid} 1"),
        ("gid_map", f"0 {gid} 1"),
    ):
        (Path("/proc/self") / name).write_text(text, encoding="ascii")


def die_with_parent(signal_number: int) -> None:
    """Ask for a signal as soon as the parent process ends, however it ends."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0), "prctl")


def minimise_timer_slack() -> None:
    """Let this thread's timers fire within a microsecond instead of fifty."""
    _check(_libc.prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0), "prctl")


def prefer_in_real_time() -> bool:
    """Run this process before all ordinary ones where the user may ask for that; say whether."""
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except PermissionError:
        return False
    return True


@contextlib.contextmanager
def processors_awake() -> Iterator[bool]:
    """Let no processor sleep in this block where the user may ask for that (root); gives whether.

    To wake up takes tens of microseconds, and half a millisecond in some virtual machines. It costs
    power: for what is timed to fractions of a millisecond only.
    """
    try:
        request = Path("/dev/cpu_dma_latency").open("wb", buffering=0)  # noqa: SIM115
    except OSError:
        yield False
        return
    with request:
        # The latency that is tolerated, in microseconds, for as long as this is open.
        request.write(bytes(4))
        yield True


def mount(kind: str, target: str) -> None:
    """Mount a file system that needs no device, such as proc or tmpfs."""
    _check(_libc.mount(kind.encode(), target.encode(), kind.encode(), 0, None), f"mount {target}")


def make_mounts_private() -> None:
    """Keep this mount namespace's changes from reaching any other."""
    _check(_libc.mount(b"none", b"/", None, _MS_PRIVATE_RECURSIVE, None), "mount --make-rprivate")


def network_namespace_number() -> int:
    """The number by which the kernel knows this thread's network namespace."""
    return Path("/proc/thread-self/ns/net").stat().st_ino


def find_network_namespace(number: int) -> Path | None:
    """A way into the network namespace of a number: a mount of it, or a process that is in it."""
    named = f"net:[{number}]"
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        fields = line.split()
        if fields[3] == named:
            return Path(fields[4])
    for process in Path("/proc").glob("[0-9]*/ns/net"):
        # Processes end, and those of others do not tell.
        with contextlib.suppress(OSError):
            if str(process.readlink()) == named:
                return process
    return None


def all_network_namespaces_are_seen() -> bool:
    """Whether no process is hidden from this one: root, in the machine's first PID namespace."""
    return os.geteuid() == 0 and Path("/proc/self/ns/pid").stat().st_ino == _FIRST_PID_NAMESPACE


@contextlib.contextmanager
def network_namespace(name: str | Path | None) -> Iterator[None]:
    """Run the body in a network namespace, by its name or a path; sockets opened there stay there.

    None is the present one. Only the calling thread is moved.
    """
    if name is None:
        yield
        return
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        there = os.open(Path("/run/netns") / name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _check(_libc.setns(there, CLONE_NEWNET), f"setns {name}")
        finally:
            os.close(there)
        try:
            yield
        finally:
            _check(_libc.setns(home, CLONE_NEWNET), "setns home")
    finally:
        os.close(home)
