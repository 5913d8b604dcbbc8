"""Run something where nothing it makes can outlive it.

The child is process 1 of its own PID namespace, with its own network and mount namespaces. When it
ends, or when this process is killed (even by SIGKILL), the kernel ends every process in there, and
with the last of them go the interfaces, qdiscs and namespaces. Root is not needed: without it a
user namespace gives the rights over all of these and over nothing else.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable
from types import FrameType

from airloom.errors import AirloomError, LinkError
from netctl import linux


def run_in_sandbox(body: Callable[[], int]) -> int:
    """Run `body` in a sandbox; return its exit status. SIGINT and SIGTERM reach it.

    Raises:
        LinkError: this kernel does not let this user make namespaces; says what would.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    helper = os.fork()
    if helper == 0:
        # unshare() moves only children into a new PID namespace, so a helper stands between.
        os._exit(_helper(body))

    def forward(number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(helper, number)

    previous = {n: signal.signal(n, forward) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        _, status = os.waitpid(helper, 0)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return os.waitstatus_to_exitcode(status)


def _helper(body: Callable[[], int]) -> int:
    linux.die_with_parent(signal.SIGKILL)
    rootless = os.geteuid() != 0
    try:
        linux.unshare_as_root(linux.CLONE_NEWNET | linux.CLONE_NEWNS | linux.CLONE_NEWPID)
    except OSError as error:
        hint = (
            "this kernel gives users no namespaces (see sysctl kernel.unprivileged_userns_clone "
            "and kernel.apparmor_restrict_unprivileged_userns); run it as root"
            if rootless
            else "root without CAP_SYS_ADMIN (a container?) cannot make namespaces"
        )
        print(f"testbed: {LinkError(f'{error.strerror}: {hint}')}", file=sys.stderr)
        return 1
    first = os.fork()
    if first == 0:
        os._exit(_first_process(body))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda n, _: os.kill(first, n))
    while True:
        with contextlib.suppress(InterruptedError):
            _, status = os.waitpid(first, 0)
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _first_process(body: Callable[[], int]) -> int:
    linux.die_with_parent(signal.SIGKILL)
    try:
        try:
            linux.make_mounts_private()
        except OSError as error:
            raise LinkError(
                f"{error}: / is no mount point here (a chroot?); `mount --bind ROOT ROOT` before "
                "entering it makes it one"
            ) from error
        linux.mount("proc", "/proc")
        linux.mount("sysfs", "/sys")
        linux.mount("tmpfs", "/run")
        return body()
    except AirloomError as error:
        print(f"testbed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("testbed: interrupted", file=sys.stderr)
        return 130
    except BaseException:
        traceback.print_exc()
        return 70
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
