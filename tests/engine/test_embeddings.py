"""Texts as vectors."""

import asyncio

import numpy as np
import pytest
from engines import MakeEngine

from airloom.errors import InvalidTaskError
from device_agent.engine import GenerateRequest


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
