"""`python -m testbed.evaluation {describe,check} MODELS`: held-out accuracy and calibration, by llama.cpp.

`describe` measures the models and writes models/manifest.json and a card for each; `check` compares
files and fresh measurements with what the manifest says.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import math
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from collaboration.prompting import compose_question, extract_answer
from collaboration.questions import DOMAINS, Question, held_out, sample
from collaboration.questions.examples import Example, check, plan, with_peers
from collaboration.questions.question import LEVELS
from device_agent.engine import Engine, EngineSettings, GenerateRequest, Model
from netctl.measure.statistics import wilson
from testbed.records import write_atomically

QUESTIONS_PER_DOMAIN = 100
COLLABORATION_QUESTIONS = 60
SEED = 4711
_BINS = 10
_TOLERANCE = 0.03
"""Other processors round differently: so much may a measured accuracy differ from the manifest's."""


@dataclass(frozen=True, slots=True)
class Scored:
    """One answered question: was it right, and how sure was the model?"""

    domain: str
    level: int
    correct: bool
    confidence: float


def expected_calibration_error(scored: Sequence[Scored]) -> float:
    """ECE over ten equal-width bins (Guo et al. 2017, eq. 3): Σ (n_b / n) · |accuracy − confidence|."""
    bins: dict[int, list[Scored]] = {}
    for one in scored:
        bins.setdefault(min(_BINS - 1, int(one.confidence * _BINS)), []).append(one)
    return math.fsum(
        abs(sum(s.correct for s in members) - math.fsum(s.confidence for s in members))
        for members in bins.values()
    ) / max(1, len(scored))


async def _complete(engine: Engine, content: str) -> tuple[str | None, float]:
    completion = await engine.generate(
        GenerateRequest(engine.model.user_prompt(content), max_tokens=200)
    )
    assert completion.confidence is not None
    return extract_answer(completion.text), completion.confidence.sequence_probability


async def answer_all(engine: Engine, questions: Sequence[Question]) -> list[Scored]:
    """Ask every question alone and score the answers by exact match."""
    scored = []
    for question in questions:
        answer, confidence = await _complete(engine, compose_question(question.text))
        scored.append(
            Scored(question.domain, question.level, answer == question.answer, confidence)
        )
    return scored


async def _collaborate(engine: Engine, domain: Any) -> dict[str, float]:
    """How often the model answers right with peers, plans right, and checks right."""
    rng = random.Random(SEED)
    makers: dict[str, Callable[[Question], Example]] = {
        "with_peers": lambda q: with_peers(rng, q, worked=True),
        "plan": plan,
        "check": lambda q: check(rng, q),
    }
    shares = {}
    for name, make in makers.items():
        right = 0
        for i in range(COLLABORATION_QUESTIONS):
            question = sample(rng, domain, LEVELS[i % len(LEVELS)], "held-out")
            example = make(question)
            answer, _ = await _complete(engine, example.prompt)
            right += answer == extract_answer(example.completion)
        shares[name] = right / COLLABORATION_QUESTIONS
    return shares


def _engine(path: Path) -> Engine:
    # Models this small gain nothing from a second thread, and lose much on a busy machine.
    return Engine(Model(path), EngineSettings(threads=1))


async def measure(path: Path) -> dict[str, Any]:
    """Measure a model: accuracy by domain and level, calibration, collaboration."""
    engine = _engine(path)
    try:
        scored: list[Scored] = []
        for domain in DOMAINS:
            questions = held_out(QUESTIONS_PER_DOMAIN, SEED, [domain])
            scored += await answer_all(engine, questions)
        collaboration = {domain: await _collaborate(engine, domain) for domain in DOMAINS}
        description = asdict(engine.description)
    finally:
        await asyncio.to_thread(engine.close)
    by_domain: dict[str, Any] = {}
    for domain in DOMAINS:
        mine = [s for s in scored if s.domain == domain]
        levels = {
            str(level): sum(s.correct for s in mine if s.level == level)
            / max(1, sum(s.level == level for s in mine))
            for level in LEVELS
        }
        total = wilson(sum(s.correct for s in mine), len(mine))
        by_domain[domain] = {
            "accuracy": total.value,
            "low": total.low,
            "high": total.high,
            "by_level": levels,
            "calibration_error": expected_calibration_error(mine),
        }
    return {
        **description,
        "domains": by_domain,
        "calibration_error": expected_calibration_error(scored),
        "collaboration": collaboration,
    }


def card(file_name: str, entry: dict[str, Any]) -> str:
    """Write a model's card in Markdown."""
    lines = [
        f"# {entry['name']}",
        "",
        f"- file: `{file_name}`, {entry['size_bytes']:,} bytes, SHA-256 `{entry['sha256']}`",
        f"- {entry['architecture']}, {entry['parameters']:,} parameters, {entry['quantisation']},"
        f" vocabulary of {entry['vocabulary_size']}, context of {entry['context_tokens']} tokens",
        "- made by `make models` from generated questions alone (`collaboration/questions`); Apache-2.0",
        "- meant for studying collaboration between models over radio links, and for nothing else",
        "",
        f"Exact-match accuracy on {QUESTIONS_PER_DOMAIN} held-out questions of each domain (greedy, by"
        " llama.cpp), with 95 % Wilson intervals; levels 1 (easy) to 4 (hard); level 5 is larger than"
        " what was trained on:",
        "",
        "| domain | accuracy | 95 % | level 1 | 2 | 3 | 4 | 5 | calibration error |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for domain, d in entry["domains"].items():
        levels = " | ".join(f"{d['by_level'][str(level)]:.0%}" for level in LEVELS)
        lines.append(
            f"| {domain} | {d['accuracy']:.0%} | {d['low']:.0%}–{d['high']:.0%} | {levels} "
            f"| {d['calibration_error']:.3f} |"
        )
    lines += [
        "",
        f"Expected calibration error of the sequence probability over all of them: "
        f"{entry['calibration_error']:.3f}.",
        "",
        f"Collaboration, {COLLABORATION_QUESTIONS} held-out questions each:",
        "",
        "| domain | right with peers' answers shown | right plan | right verdict on an answer |",
        "|---|---|---|---|",
    ]
    for domain, c in entry["collaboration"].items():
        lines.append(f"| {domain} | {c['with_peers']:.0%} | {c['plan']:.0%} | {c['check']:.0%} |")
    lines += ["", "Measured by `python -m testbed.evaluation describe models`.", ""]
    return "\n".join(lines)


def describe(folder: Path) -> None:
    """Measure every model of the folder; write the manifest and the cards."""
    manifest: dict[str, Any] = {}
    for path in sorted(folder.glob("*.gguf")):
        entry = asyncio.run(measure(path))
        manifest[path.name] = entry
        write_atomically(folder / f"{entry['name']}.md", card(path.name, entry))
        accuracies = {d: f"{v['accuracy']:.0%}" for d, v in entry["domains"].items()}
        print(f"{path.name}: {accuracies}", flush=True)
    write_atomically(folder / "manifest.json", json.dumps(manifest, indent=2) + "\n")


def card_of(model: Path, digest: str) -> dict[str, float] | None:
    """Accuracy by domain of a model file, from the manifest beside it; None where it has none."""
    manifest = model.with_name("manifest.json")
    if not manifest.is_file():
        return None
    entry = json.loads(manifest.read_text(encoding="utf-8")).get(model.name)
    if entry is None or entry["sha256"] != digest:
        return None
    return {domain: figures["accuracy"] for domain, figures in entry["domains"].items()}


def verify(folder: Path) -> list[str]:
    """Compare the folder with its manifest; return what does not agree."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    problems = []
    for name, entry in manifest.items():
        path = folder / name
        if not path.is_file():
            problems.append(f"{path}: missing")
            continue
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest != entry["sha256"]:
            problems.append(f"{path}: SHA-256 is {digest}, the manifest says {entry['sha256']}")
            continue
        measured = asyncio.run(measure(path))
        for domain, expected in entry["domains"].items():
            got = measured["domains"][domain]["accuracy"]
            agrees = abs(got - expected["accuracy"]) <= _TOLERANCE
            print(f"{name}: {domain} {got:.0%} (manifest: {expected['accuracy']:.0%})", flush=True)
            if not agrees:
                problems.append(
                    f"{path}: accuracy in {domain} is {got:.2f}, the manifest says "
                    f"{expected['accuracy']:.2f}"
                )
    return problems


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m testbed.evaluation", description=__doc__)
    parser.add_argument("command", choices=["describe", "check"])
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "describe":
        describe(arguments.folder)
        return
    problems = verify(arguments.folder)
    for problem in problems:
        print(problem, file=sys.stderr)
    raise SystemExit(1 if problems else 0)


if __name__ == "__main__":
    main()
