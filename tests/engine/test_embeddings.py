"""Texts as vectors."""

import asyncio
import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from engines import MODELS, ROOT, MakeEngine
from files import write_bert
from gates import Gate

from airloom.errors import InvalidTaskError
from device_agent.engine import GenerateRequest, Model
from device_agent.engine.context import Batch, Context
from device_agent.engine.embeddings import PASS_TOKENS
from device_agent.engine.memory_estimate import estimate, read_shape


async def test_like_texts_lie_closer_than_unlike_ones(make_engine: MakeEngine) -> None:
    engine = make_engine("cloud")
    texts = ["What is 12+25?", "What is 13+24?", "Who rules the land of Muvu?"]
    embedded = await engine.embed(texts)
    vectors = np.stack([vector for vector, _ in embedded])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]
    assert [tokens for _, tokens in embedded] == [len(engine.model.tokenize(t)) for t in texts]


async def test_embedding_leaves_running_generations_alone(make_engine: MakeEngine) -> None:
    engine = make_engine()
    request = GenerateRequest(engine.model.user_prompt("What is 12+25?"))
    expected = (await engine.generate(request)).text
    completion, first, again = await asyncio.gather(
        engine.generate(request), engine.embed(["one"]), engine.embed(["one"])
    )
    assert completion.text == expected
    np.testing.assert_array_equal(first[0][0], again[0][0])


async def test_a_text_that_does_not_fit_is_refused_with_the_numbers(
    make_engine: MakeEngine,
) -> None:
    with pytest.raises(InvalidTaskError, match="of 601 tokens cannot be embedded; 1 to 384 can"):
        await make_engine().embed(["7" * 600])


async def test_short_texts_and_tokens_come_between_the_passes_of_a_long_text(
    make_engine: MakeEngine, gate: Gate
) -> None:
    engine = make_engine("cloud")
    long, short = "What is 12+25? " * 20, "one"
    assert len(engine.model.tokenize(long)) > 3 * PASS_TOKENS
    expected = {text: (await engine.embed([text]))[0][0] for text in (long, short)}
    ended: list[str] = []

    async def embed(name: str, text: str) -> None:
        ((vector, _),) = await engine.embed([text])
        np.testing.assert_allclose(vector, expected[text], atol=1e-5)
        ended.append(name)

    async def generate() -> None:
        await engine.generate(GenerateRequest("1 2 3 4", max_tokens=3, ignore_end=True))
        ended.append("three tokens")

    gate.shut()
    all_of_them = asyncio.gather(
        embed("long", long), embed("short", short), embed("last", long), generate()
    )
    await gate.held()
    gate.open()
    await all_of_them
    assert ended.index("short") < ended.index("long") < ended.index("last")
    assert ended.index("three tokens") < ended.index("last")


async def test_whoever_leaves_takes_its_text_along(make_engine: MakeEngine) -> None:
    engine = make_engine("cloud")
    leaving = [asyncio.ensure_future(engine.embed(["7" * 300])) for _ in range(3)]
    await asyncio.sleep(0)
    for each in leaving:
        each.cancel()
    await asyncio.gather(*leaving, return_exceptions=True)
    ((vector, count),) = await engine.embed(["one"])
    assert count == len(engine.model.tokenize("one"))
    assert np.isfinite(vector).all()


async def test_a_text_of_several_passes_is_the_mean_over_all_its_tokens(
    make_engine: MakeEngine,
) -> None:
    engine = make_engine("cloud")
    text = "What is 12+25? " * 12
    ((vector, count),) = await engine.embed([text])
    assert count > 2 * PASS_TOKENS
    # llama.cpp's own mean, over one pass.
    model = Model(MODELS["cloud"])
    context = Context(model, batch_tokens=384, threads=1, embeddings="pooled")
    batch = Batch(context.batch_tokens)
    batch.extend(model.tokenize(text), 0, 0, output=False)
    batch.outputs[:count] = 1
    context.decode(batch)
    expected = context.embedding(0, model.embedding_width)
    context.close()
    model.close()
    np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), atol=2e-3)


def test_embeddings_are_counted_and_grow_little_with_the_vocabulary() -> None:
    shape = read_shape(MODELS["cloud"])
    large = dataclasses.replace(shape, vocabulary=152_000, trained_context_tokens=4096)
    settings = {
        "parallel": 1, "context_tokens": 4096, "batch_tokens": 512, "outputs": 1,
        "key_value_type": "f16",
    }  # fmt: skip
    without = estimate(large, **settings)
    with_them = estimate(large, **settings, embeddings=True)
    assert 0 < with_them.total - without.total == with_them.embeddings < 512 << 20
    assert "embeddings" in str(with_them)


_ASK_AN_ENCODER = """
import asyncio, pathlib, sys
from airloom.errors import InvalidTaskError
from device_agent.engine import Engine, EngineSettings, GenerateRequest, Model

async def main():
    engine = Engine(Model(pathlib.Path(sys.argv[1])), EngineSettings(threads=1))
    try:
        await engine.generate(GenerateRequest("what is 1"))
    except InvalidTaskError as error:
        print(error)
    print(len((await engine.embed(["what is 1"]))[0][0]))
    engine.close()

asyncio.run(main())
"""


def test_an_encoder_embeds_and_refuses_completions(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _ASK_AN_ENCODER, write_bert(tmp_path / "bert.gguf")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "(bert) embeds texts and cannot continue them" in done.stdout
    assert done.stdout.splitlines()[-1] == "32"
