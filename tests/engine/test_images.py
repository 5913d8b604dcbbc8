"""Images in a prompt, through llama.cpp's own vision code."""

import asyncio
from pathlib import Path

import pytest
from engines import MODELS, MakeEngine
from files import GreyLetters

from airloom.errors import InvalidTaskError, ModelLoadError
from device_agent.engine import IMAGE_MARK, GenerateRequest, Image


@pytest.fixture(scope="module")
def letters() -> GreyLetters:
    return GreyLetters(MODELS["mathematics"])


@pytest.fixture
def projector(letters: GreyLetters, tmp_path: Path) -> Path:
    return letters.write(tmp_path / "letters.gguf")


async def test_an_image_of_a_question_is_answered_like_the_question(
    letters: GreyLetters, projector: Path, make_engine: MakeEngine
) -> None:
    engine = make_engine(projector=projector, parallel=3)
    assert engine.description.reads_images
    sums = ["12+25", "38+47", "91+16"]
    written = [
        await engine.generate(GenerateRequest(engine.model.user_prompt(f"What is {sum_}?")))
        for sum_ in sums
    ]
    shown = await asyncio.gather(
        *(
            engine.generate(
                GenerateRequest(
                    engine.model.user_prompt(f"What {IMAGE_MARK}"),
                    images=(Image(letters.image(f"is {sum_}?")),),
                )
            )
            for sum_ in sums
        )
    )
    assert [one.text for one in shown] == [one.text for one in written]
    assert [one.prompt_tokens for one in shown] == [one.prompt_tokens for one in written]


async def test_the_same_image_is_remembered_and_another_is_not_taken_for_it(
    letters: GreyLetters, projector: Path, make_engine: MakeEngine
) -> None:
    engine = make_engine(projector=projector, parallel=1)
    prompt = engine.model.user_prompt(f"What {IMAGE_MARK}")

    async def ask(text: str) -> tuple[str, int]:
        request = GenerateRequest(prompt, images=(Image(letters.image(text)),))
        completion = await engine.generate(request)
        return completion.text, completion.cached_tokens

    first, _ = await ask("is 12+25?")
    again, reused = await ask("is 12+25?")
    other, reused_by_other = await ask("is 38+47?")
    assert again == first != other
    assert reused > 9 > reused_by_other - len("<s>Q: What ") + 9 - 9


async def test_a_text_model_says_that_it_reads_text_only(make_engine: MakeEngine) -> None:
    request = GenerateRequest(f"See {IMAGE_MARK}.", images=(Image(b"png"),))
    with pytest.raises(InvalidTaskError, match="reads text only: no projector"):
        await make_engine().generate(request)


async def test_what_is_no_image_is_named(projector: Path, make_engine: MakeEngine) -> None:
    engine = make_engine(projector=projector)
    with pytest.raises(InvalidTaskError, match=r"image 0 \(3 bytes\) is not one that can be read"):
        await engine.generate(GenerateRequest(f"See {IMAGE_MARK}.", images=(Image(b"png"),)))
    with pytest.raises(InvalidTaskError, match="2 places for 1 images"):
        mark = f"{IMAGE_MARK} {IMAGE_MARK}."
        await engine.generate(GenerateRequest(mark, images=(Image(b"png"),)))


def test_a_projector_for_another_model_is_refused(projector: Path, make_engine: MakeEngine) -> None:
    with pytest.raises(ModelLoadError, match=r"letters\.gguf: no projector for .*cloud"):
        make_engine("cloud", projector=projector)
