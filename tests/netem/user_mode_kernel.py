"""Run a command as if on this machine, but on Debian's user-mode kernel, which has netem."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

INIT = Path(__file__).with_name("uml_init.sh")


_IN_REAL_TIME = ("chrt", "--rr", "1") if os.geteuid() == 0 else ()
"""The whole kernel is one process here: what else this machine does must not stop its clock."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended in the user-mode kernel."""

    status: int
    output: str


def run(command: str, cwd: Path, scratch: Path, timeout_s: float = 280.0) -> Outcome:
    """Boot, run one shell command in `cwd`, power off."""
    kernel = shutil.which("linux.uml")
    if kernel is None:
        raise FileNotFoundError("linux.uml is missing: run `make test`, which installs it")
    script = scratch / "command.sh"
    script.write_text(f"cd {cwd}\n{command}\n", encoding="utf-8")
    arguments = [
        kernel,
        "root=/dev/root",
        "rootfstype=hostfs",
        "rootflags=/",
        "rw",
        "mem=2G",
        f"init={INIT}",
        f"umid=airloom-{scratch.name}",
        f"uml_dir={scratch}",
        "con=null",
        "con0=fd:0,fd:1",
        f"UML_SCRIPT={script}",
        f"UML_OUTPUT={scratch}/out",
    ]
    with (scratch / "console.log").open("wb") as console:
        subprocess.run(
            [*_IN_REAL_TIME, *arguments],
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
