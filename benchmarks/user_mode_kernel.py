"""Run a command as if on this machine, but on a kernel of its own that has netem.

The kernel (Linux's ARCH=um, built by tools/test_kernel.sh) is a process with a clock of its own, which
stands while anything computes and jumps to the next timer while nothing does. What is measured
there is what sch_netem does, whatever else this machine is doing.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_INIT = Path(__file__).with_name("user_mode_kernel_init.sh")


@dataclass(frozen=True)
class Outcome:
    """How a command ended in the user-mode kernel."""

    status: int
    output: str


def kernel() -> Path:
    """The kernel's program, compiled where it is not there yet."""
    done = subprocess.run(
        [_ROOT / "tools/test_kernel.sh"], stdout=subprocess.PIPE, text=True, check=True
    )
    return Path(done.stdout.strip())


def run(
    command: str, cwd: Path, scratch: Path, timeout_s: float, *, own_clock: bool = True
) -> Outcome:
    """Boot, run one shell command in `cwd`, power off; `timeout_s` is of this machine's time.

    Without a clock of its own it lives by this machine's: what races with time needs that.
    """
    script = scratch / "command.sh"
    script.write_text(f"cd {cwd}\n{command}\n", encoding="utf-8")
    arguments = [
        str(kernel()),
        "root=/dev/root",
        "rootfstype=hostfs",
        "rootflags=/",
        "rw",
        "mem=2G",
        *(["time-travel=inf-cpu"] if own_clock else []),
        f"init={_INIT}",
        f"umid=airloom-{scratch.name}",
        f"uml_dir={scratch}",
        "con=null",
        "con0=fd:0,fd:1",
        f"UML_SCRIPT={script}",
        f"UML_OUTPUT={scratch}/out",
    ]
    with (scratch / "console.log").open("wb") as console:
        subprocess.run(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            timeout=timeout_s,
            check=False,
        )
    status = scratch / "out.status"
    if not status.exists():
        raise RuntimeError(
            "the user-mode kernel did not run the command:\n"
            + (scratch / "console.log").read_text()
        )
    output = (scratch / "out.log").read_text(encoding="utf-8", errors="replace")
    return Outcome(int(status.read_text()), output)
