"""netctl against what was asked, and against the tools that people use instead.

Traces are recorded ones from the folder AIRLOOM_TRACES where that is set, else synthetic.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks import user_mode_kernel
from benchmarks.netctl import synthetic_trace
from benchmarks.netctl.conditions_table import CONDITIONS, REFUSED_BY
from benchmarks.result import Result
from netctl.backends import BACKENDS
from netctl.backends.capabilities import probe

_ROOT = Path(__file__).parents[2]
_TRACE_S = 60
_KILLS = 100
_PATIENCE_S = 3000.0
_USERSPACE = ("userspace-tun", "userspace-packet")


def _here(module: str, *arguments: str, out: Path) -> Any:
    """Run one of this package's programs on this kernel; returns what it wrote."""
    command = [sys.executable, "-m", f"benchmarks.netctl.{module}", *arguments]
    subprocess.run(command, cwd=_ROOT, check=True, stdout=subprocess.DEVNULL)
    return json.loads(out.read_text(encoding="utf-8"))


def _on_netem(module: str, *arguments: str, out: Path, own_clock: bool = True) -> Any:
    """The same on a kernel with netem: this one where it has it, else a user-mode kernel."""
    if probe().netem is None:
        return _here(module, *arguments, out=out)
    command = shlex.join([sys.executable, "-m", f"benchmarks.netctl.{module}", *arguments])
    with tempfile.TemporaryDirectory() as scratch:
        outcome = user_mode_kernel.run(
            command, _ROOT, Path(scratch), _PATIENCE_S, own_clock=own_clock
        )
    if outcome.status != 0:
        raise SystemExit(f"{command} failed in the user-mode kernel:\n{outcome.output}")
    return json.loads(out.read_text(encoding="utf-8"))


def _working_userspace() -> str:
    capabilities = probe()
    return next(name for name in _USERSPACE if BACKENDS[name].missing(capabilities) is None)


def run() -> list[Result]:
    """Everything; some half an hour."""
    return [result for part in PARTS.values() for result in part()]


def updates() -> list[Result]:
    """What a change costs, and a thousand of them a second."""
    with _file() as out:
        return _updates(_here("updates", str(out), out=out))


def capacity() -> list[Result]:
    """What the userspace link carries."""
    backend = _working_userspace()
    with _file() as out:
        return _capacity(_here("capacity", backend, str(out), out=out), backend)


def replay() -> list[Result]:
    """Traces on both backends."""
    with _file() as out:
        return _replays(_working_userspace(), out.parent)


def fidelity() -> list[Result]:
    """The table of conditions on both backends."""
    with _file() as out:
        return _fidelity(_working_userspace(), out)


def kills() -> list[Result]:
    """kill -9, a hundred times."""
    with _file() as out:
        return _killed(_on_netem("kills", str(out), str(_KILLS), out=out, own_clock=False))


PARTS = {
    "updates": updates,
    "capacity": capacity,
    "replay": replay,
    "fidelity": fidelity,
    "kills": kills,
}


@contextlib.contextmanager
def _file() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "out.json"


def _updates(found: Mapping[str, float]) -> list[Result]:
    return [
        Result("netctl/change/tc", found["ours"], "ms", "forked tc", found["tc"], at_most=0.2),
        Result("netctl/change/tc-batch", found["ours"], "ms", "tc -batch", found["kept_tc"]),
        Result(
            "netctl/change/pyroute2", found["ours"], "ms", "pyroute2", found["pyroute2"], at_most=1
        ),
        Result("netctl/1000-changes/late-p99", found["late_p99"], "ms", "limit", 1.0, at_most=1),
        Result(
            "netctl/1000-changes/late-p99-own",
            found["late_p99"],
            "ms",
            "a loop that changes nothing",
            found["idle_late_p99"],
            at_most=1.5,
        ),
        Result(
            "netctl/1000-changes/late-p99-worst-turn",
            found["late_p99_worst"],
            "ms",
            "a loop that changes nothing",
            found["idle_late_p99_worst"],
        ),
        Result("netctl/1000-changes/processor", found["processor"], "cores", "one core", 1.0),
    ]


def _capacity(found: Mapping[str, Mapping[str, float]], backend: str) -> list[Result]:
    goodput, delay = found["goodput"], found["delay"]
    name = f"netctl/{backend}"
    return [
        Result(f"{name}/tcp", goodput["bps"] / 1e6, "Mbit/s", "goal", 500.0, at_least=1),
        Result(f"{name}/tcp/processor", goodput["processor"], "cores", "one core", 1.0),
        Result(f"{name}/delay-error-p99", delay["p99"], "ms", "limit", 0.5, at_most=1),
        Result(f"{name}/delay-error-p99-worst-turn", delay["p99_worst"], "ms", "limit", 0.5),
        Result(f"{name}/delay/processor", delay["processor"], "cores", "one core", 1.0),
    ]


def _traces(folder: Path) -> list[Path]:
    given = os.environ.get("AIRLOOM_TRACES")
    if given:
        found = sorted(p for p in Path(given).iterdir() if p.suffix in (".up", ".down"))
        if not found:
            raise SystemExit(f"AIRLOOM_TRACES={given}: no *.up or *.down there")
        return [path.resolve() for path in found]
    return [synthetic_trace.write(folder / f"synthetic-{n}.up", seed=n) for n in (1, 2)]


def _replays(backend: str, folder: Path) -> list[Result]:
    results = []
    out = folder / "replay.json"
    for name, run_there in (("netem", _on_netem), (backend, _here)):
        for trace in _traces(folder):
            (found,) = run_there("trace_replay", name, str(_TRACE_S), str(out), str(trace), out=out)
            prefix = f"netctl/replay/{name}/{found['trace']}"
            results += [
                Result(
                    f"{prefix}/100ms", found["window_median"], "error", "limit", 0.01, at_most=1
                ),
                Result(f"{prefix}/100ms-p90", found["window_p90"], "error", "all", 1.0),
                Result(
                    f"{prefix}/cumulative",
                    found["cumulative_packets"],
                    "packets",
                    "one window",
                    max(1.0, found["window_packets"]),
                    at_most=1,
                ),
                Result(
                    f"{prefix}/whole",
                    found["whole_packets"],
                    "packets",
                    "0.2 % or one",
                    max(1.0, 0.002 * found["allowed_packets"]),
                    at_most=1,
                ),
            ]
    return results


def _fidelity(backend: str, out: Path) -> list[Result]:
    results, delays = [], {}
    for name, run_there in (("netem", _on_netem), (backend, _here)):
        certificates = run_there("fidelity", name, str(out), out=out)
        asked = [each for each in CONDITIONS if name not in REFUSED_BY.get(each, ())]
        passed = sum(certificates[each]["passed"] for each in asked)
        delays[name] = certificates
        results.append(
            Result(
                f"netctl/fidelity/{name}", passed, "conditions in their bands", "asked", len(asked),
                at_least=1,
            )
        )  # fmt: skip
        for each in asked:
            for verdict in certificates[each]["verdicts"]:
                if not verdict["passed"]:
                    print(f"{name}: {each}: {json.dumps(verdict)}", file=sys.stderr)
    both = [each for each in delays["netem"] if each in delays[backend]]
    agreeing = sum(_agree(delays["netem"][each], delays[backend][each]) for each in both)
    results.append(
        Result("netctl/fidelity/agreement", agreeing, "conditions", "both", len(both), at_least=1)
    )
    return results


def _agree(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether both certificates pass: each lies within the band around the same thing asked."""
    quantities = [
        {(verdict["way"], verdict["quantity"]) for verdict in each["verdicts"]}
        for each in (one, other)
    ]
    return bool(one["passed"] and other["passed"] and quantities[0] == quantities[1])


def _killed(found: Mapping[str, Any]) -> list[Result]:
    if found["control_error"] is not None:
        raise SystemExit(f"the control connection was cut: {found['control_error']}")
    rounds = found["rounds"]
    return [
        Result(
            "netctl/kill-9/restored-after", found["restored_s_max"], "s", "lease + 1 s",
            found["limit_s"], at_most=1,
        ),
        Result(
            "netctl/kill-9/foreign-rules", rounds - found["foreign_rules_touched"], "rounds untouched",
            "rounds", rounds, at_least=1,
        ),
        Result(
            "netctl/kill-9/control-worst", found["control_worst_ms"], "ms", "limit", 1000.0, at_most=1,
        ),
    ]  # fmt: skip
