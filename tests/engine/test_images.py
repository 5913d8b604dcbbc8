"""Images in a prompt, through llama.cpp's own vision code."""

import asyncio
import dataclasses
import io
import struct
from pathlib import Path

import PIL.Image
import pytest
from engines import MODELS, MakeEngine
from files import GreyLetters
from hypothesis import given, settings
from hypothesis import strategies as st

from airloom.errors import InternalError, InvalidTaskError, ModelLoadError
from device_agent.engine import IMAGE_MARK, Completion, GenerateRequest, Image
from device_agent.engine.image_size import image_size


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


async def test_an_image_that_cannot_be_read_ends_its_own_generation(
    letters: GreyLetters,
    projector: Path,
    make_engine: MakeEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = make_engine(projector=projector, parallel=2)
    text = GenerateRequest("Q: 12+25", max_tokens=40, ignore_end=True)
    prompt = engine.model.user_prompt(f"What {IMAGE_MARK}")
    image = GenerateRequest(prompt, images=(Image(letters.image("is 12+25?")),))
    expected, shown = await engine.generate(text), await engine.generate(image)
    with monkeypatch.context() as patch:
        patch.setattr("device_agent.engine.images.Vision.decode", lambda *_: 1 / 0)
        other = dataclasses.replace(image, images=(Image(letters.image("is 38+47?")),))
        beside, fault = await asyncio.gather(
            engine.generate(text), engine.generate(other), return_exceptions=True
        )
    assert isinstance(beside, Completion)
    assert beside.token_ids == expected.token_ids
    assert isinstance(fault, InternalError)
    again = await asyncio.gather(*(engine.generate(image) for _ in range(2)))
    assert [one.text for one in again] == [shown.text] * 2


async def test_a_generation_that_has_read_images_cannot_be_held_and_goes_on(
    letters: GreyLetters, projector: Path, make_engine: MakeEngine
) -> None:
    engine = make_engine(projector=projector)
    prompt = engine.model.user_prompt(f"What {IMAGE_MARK}")
    image = GenerateRequest(prompt, images=(Image(letters.image("is 12+25?")),), ignore_end=True)
    expected = await engine.generate(image)
    generation = await engine.start(image)
    with pytest.raises(InvalidTaskError, match="has read images"):
        await generation.hold(lease_s=60)
    assert (await generation.completion()).text == expected.text


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "bmp"])
@given(size=st.tuples(st.integers(1, 300), st.integers(1, 300)))
@settings(max_examples=20, deadline=None)
def test_an_images_size_is_read_from_its_header(kind: str, size: tuple[int, int]) -> None:
    file = io.BytesIO()
    PIL.Image.new("RGB", size).save(file, kind)
    assert image_size(file.getvalue()) == size


@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM"]),
)
def test_any_bytes_have_a_size_or_none(data: bytes, head: bytes) -> None:
    size = image_size(head + data)
    assert size is None or min(size) >= 0


async def test_an_image_that_unfolds_to_gigabytes_is_refused_by_its_header(
    projector: Path, make_engine: MakeEngine
) -> None:
    header = struct.pack(">II", 30_000, 30_000) + bytes([1, 0, 0, 0, 0])
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(header)) + b"IHDR" + header
    request = GenerateRequest(f"See {IMAGE_MARK}.", images=(Image(data + bytes(99)),))
    with pytest.raises(InvalidTaskError, match="image 0 has 30,000 x 30,000 pixels; at most"):
        await make_engine(projector=projector).generate(request)
