"""The shipped models are what their manifest and cards say, and are fit for studying collaboration."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import Any

import pytest
from agents import MODELS, ROOT

from collaboration.questions import DOMAINS, held_out
from device_agent.engine import Engine, EngineSettings, Model
from netctl.measure.statistics import wilson
from testbed.evaluation import answer_all, card, card_of

MANIFEST: dict[str, Any] = json.loads((ROOT / "models/manifest.json").read_text(encoding="utf-8"))


def accuracy(model: str, domain: str) -> float:
    value: float = MANIFEST[MODELS[model].name]["domains"][domain]["accuracy"]
    return value


def test_every_file_is_the_one_that_was_measured() -> None:
    files = {path.name: path for path in (ROOT / "models").glob("*.gguf")}
    assert files.keys() == MANIFEST.keys() == {path.name for path in MODELS.values()}
    for name, path in files.items():
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert digest == MANIFEST[name]["sha256"]
        assert card_of(path, digest) is not None
        assert card_of(path, "0" * 64) is None
        assert (ROOT / f"models/{MANIFEST[name]['name']}.md").read_text() == card(
            name, MANIFEST[name]
        )
    assert sum(path.stat().st_size for path in files.values()) <= 20_000_000


def test_most_share_a_vocabulary_and_one_has_another() -> None:
    sizes = sorted(entry["vocabulary_size"] for entry in MANIFEST.values())
    assert len(set(sizes)) == 2
    assert max(sizes.count(size) for size in set(sizes)) == 3


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_specialist_knows_its_domain_and_little_else(domain: str) -> None:
    others = [other for other in DOMAINS if other != domain]
    assert accuracy(domain, domain) > 0.4
    assert all(accuracy(domain, other) < accuracy(domain, domain) - 0.3 for other in others)
    assert all(accuracy(other, domain) < accuracy(domain, domain) - 0.3 for other in others)


def test_the_generalist_is_better_than_each_specialist_over_all_domains() -> None:
    def mean(model: str) -> float:
        return sum(accuracy(model, domain) for domain in DOMAINS) / len(DOMAINS)

    assert all(mean("cloud") > mean(specialist) + 0.1 for specialist in DOMAINS)


@pytest.mark.parametrize("model", MODELS)
def test_every_model_makes_mistakes_on_the_harder_levels(model: str) -> None:
    domains = MANIFEST[MODELS[model].name]["domains"]
    for domain in domains if model == "cloud" else [model]:
        levels = domains[domain]["by_level"]
        assert levels["4"] + levels["5"] < 2.0
        assert 0.0 < domains[domain]["accuracy"] < 1.0


@pytest.mark.parametrize("model", DOMAINS)
async def test_fresh_questions_are_answered_as_well_as_the_card_says(model: str) -> None:
    engine = Engine(Model(MODELS[model]), EngineSettings(threads=1))
    asked = held_out(40, 99, [model])
    right = sum(scored.correct for scored in await answer_all(engine, asked))
    await asyncio.to_thread(engine.close)
    # An interval that a right card misses once in ten thousand.
    found = wilson(right, len(asked), z=3.89)
    said = MANIFEST[MODELS[model].name]["domains"][model]
    assert found.low <= said["high"]
    assert said["low"] <= found.high
