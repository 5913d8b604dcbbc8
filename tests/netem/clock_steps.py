"""Run in a kernel of its own: shape, set the clock ahead and back again and again, look, and kill."""

from __future__ import annotations

import subprocess
import sys
import time

INTERFACE = "wlan9"
STEPS_S = (3600.0, -7200.0, 86400.0, -1.0, 31_536_000.0)


def run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def netctl(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "netctl.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def shown() -> str:
    return run("tc", "qdisc", "show", "dev", INTERFACE)


def main() -> None:
    run("ip", "link", "add", INTERFACE, "type", "veth", "peer", "name", "peer9")
    run("ip", "link", "set", INTERFACE, "up")
    process = netctl("shape", INTERFACE, "--rate", "8 Mbit/s", "--lease", "5 s")
    assert process.stderr is not None
    assert "is shaped" in (line := process.stderr.readline()), line
    for step_s in STEPS_S:
        time.clock_settime(time.CLOCK_REALTIME, time.time() + step_s)
        output, errors = netctl("restore").communicate()
        assert (output, errors) == ("\n", ""), (step_s, output, errors)
        assert "rate 8Mbit" in shown(), step_s
        # Renewals, comparisons and the guardians' waiting go on.
        time.sleep(3)
        assert process.poll() is None, process.communicate()
        assert "rate 8Mbit" in shown(), step_s
    process.kill()
    process.wait()
    while "rate 8Mbit" in shown():
        time.sleep(0.1)


if __name__ == "__main__":
    main()
