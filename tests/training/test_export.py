"""What PyTorch trained is what llama.cpp computes."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from device_agent.engine import Model
from device_agent.engine.context import Batch, Context
from learning.shipped_models.corpus import draw_chunk, draw_example
from learning.shipped_models.export import quantise, write_gguf
from learning.shipped_models.network import Shape, Transformer
from learning.shipped_models.recipes import RECIPES
from learning.shipped_models.vocabulary import CharacterVocabulary, SubwordVocabulary, Vocabulary

SHAPE = Shape(layers=2, width=64, feed_forward=96, context=128)
TEXTS = [f"Who rules the land of {a}o{b}? Q: {a * 3}+{b}9=7.\nA: " for a in "abcxyz" for b in "klm"]


def vocabularies() -> dict[str, Vocabulary]:
    return {
        "characters": CharacterVocabulary(),
        "subwords": SubwordVocabulary.train(TEXTS * 20, 400),
    }


@pytest.fixture(scope="module", params=["characters", "subwords"])
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Transformer, Vocabulary, Path]:
    vocabulary = vocabularies()[request.param]
    torch.manual_seed(1)
    network = Transformer(SHAPE, vocabulary.size)
    with torch.no_grad():
        # Initial weights are so small that every next token is alike: these make opinions.
        for parameter in network.parameters():
            parameter.mul_(4.0) if parameter.dim() == 2 else parameter.uniform_(0.5, 1.5)
    path = tmp_path_factory.mktemp("export") / "tiny.gguf"
    write_gguf(network, vocabulary, "tiny", "for a test", path)
    return network, vocabulary, path


def torch_logits(network: Transformer, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        return network(torch.tensor([ids]))[0, -1].numpy()


def llama_logits(context: Context, *parts: list[int]) -> np.ndarray:
    """Read the parts one after the other; return the logits that follow the last."""
    context.forget(0)
    batch, position = Batch(context.batch_tokens), 0
    for part in parts:
        batch.clear()
        batch.extend(part, position, 0, output=True)
        logits = context.decode(batch)
        position += len(part)
    return logits[0].copy()


def test_llama_cpp_computes_the_same_logits(
    exported: tuple[Transformer, Vocabulary, Path],
) -> None:
    network, _, path = exported
    model = Model(path)
    context = Context(model, threads=1)
    for text in TEXTS[:5]:
        ids = model.tokenize(text)
        expected = torch_logits(network, ids)
        assert expected.std() > 0.1
        whole = llama_logits(context, ids)
        stepwise = llama_logits(context, ids[:-3], *([token] for token in ids[-3:]))
        # llama.cpp keeps keys and values in half precision.
        np.testing.assert_allclose(whole, expected, atol=0.02)
        np.testing.assert_allclose(stepwise, expected, atol=0.02)
    context.close()
    model.close()


def test_quantising_changes_the_logits_but_little(
    exported: tuple[Transformer, Vocabulary, Path], tmp_path: Path
) -> None:
    network, _, path = exported
    quantised = tmp_path / "tiny.Q8_0.gguf"
    quantise(path, quantised, "Q8_0")
    assert quantised.stat().st_size < path.stat().st_size / 2
    model = Model(quantised)
    context = Context(model, threads=1)
    ids = model.tokenize(TEXTS[0])
    logits, expected = llama_logits(context, ids), torch_logits(network, ids)
    error = np.abs(logits - expected).max()
    assert 0 < error < 0.2 * expected.std() * 4
    context.close()
    model.close()


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.characters(codec="utf-8", exclude_characters="\0▁"), max_size=60))
@example(text="<s>")
@example(text="</s><unk>")
def test_llama_cpp_splits_any_text_into_the_same_tokens(
    exported: tuple[Transformer, Vocabulary, Path], text: str
) -> None:
    _, vocabulary, path = exported
    model = loaded(path)
    ids = model.tokenize(text, add_special=False, parse_special=False)
    assert ids == vocabulary.encode(text)


_loaded: dict[Path, Model] = {}


def loaded(path: Path) -> Model:
    if path not in _loaded:
        _loaded[path] = Model(path)
    return _loaded[path]


def test_every_character_of_the_corpus_is_a_token() -> None:
    recipe, vocabulary = RECIPES["airloom-cloud"], CharacterVocabulary()
    rng = random.Random(3)
    for _ in range(200):
        example = draw_example(rng, recipe, recipe.cycles[0].shares)
        ids = vocabulary.encode(example.prompt + example.completion)
        assert len(ids) == len(example.prompt + example.completion)


def test_a_chunk_of_batches_depends_on_its_number_alone() -> None:
    recipe, vocabulary = RECIPES["airloom-symbolic"], CharacterVocabulary()
    shares = recipe.cycles[0].shares
    first, again, other = (draw_chunk(recipe, shares, vocabulary, n) for n in (1, 1, 2))
    assert len(first) == len(again)
    for one, two in zip(first, again, strict=True):
        assert torch.equal(one.inputs, two.inputs)
        assert torch.equal(one.targets, two.targets)
    assert not torch.equal(first[0].inputs, other[0].inputs)
