"""Files that are models, and files that are not."""

from pathlib import Path

import psutil
import pytest
from engines import MODELS, MakeEngine

from airloom.errors import ModelLoadError
from device_agent.engine import Model
from device_agent.engine.memory_estimate import MemoryNeed, check_fits, estimate, read_shape


@pytest.mark.parametrize("kept", [3, 100, 20_000, 1_000_000])
def test_a_truncated_model_is_refused_by_name(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(MODELS["mathematics"].read_bytes()[:kept])
    with pytest.raises(ModelLoadError, match=r"cut\.gguf.*(GGUF|loaded)"):
        Model(path)


def test_a_missing_model_and_a_wrong_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="no such model file"):
        Model(tmp_path / "none.gguf")
    wrong = tmp_path / "wrong.gguf"
    wrong.write_text("not a model")
    with pytest.raises(ModelLoadError, match="not a GGUF file"):
        Model(wrong)


@pytest.mark.parametrize("name", MODELS)
def test_every_shipped_model_tokenises_and_detokenises(name: str) -> None:
    model = Model(MODELS[name])
    text = "Q: Is it 42? — naïve ✓\nA: "
    tokens = model.tokenize(text, add_special=False)
    assert b"".join(model.pieces[token] for token in tokens).decode() == text
    model.close()


def test_one_model_has_another_vocabulary() -> None:
    sizes = {}
    for name, path in MODELS.items():
        model = Model(path)
        sizes[name] = model.vocabulary_size
        model.close()
    assert len(set(sizes.values())) == 2
    assert sizes["mathematics"] == sizes["symbolic"] == sizes["cloud"]


@pytest.mark.parametrize("name", ["mathematics", "cloud"])
def test_the_memory_estimate_is_what_loading_takes(name: str, make_engine: MakeEngine) -> None:
    process = psutil.Process()
    # What any first engine allocates for good is not this one's.
    make_engine("symbolic")
    need = estimate(
        read_shape(MODELS[name]),
        parallel=32,
        context_tokens=384,
        batch_tokens=512,
        key_value_type="f16",
        outputs=32,
    )
    before = process.memory_info().rss
    make_engine(name, parallel=32)
    grown = process.memory_info().rss - before
    assert grown < need.weights + need.cache + need.compute
    assert grown > 0.3 * need.cache


def test_a_model_that_does_not_fit_is_refused_with_the_numbers() -> None:
    need = MemoryNeed(weights=4 << 30, cache=1 << 30, compute=200 << 20)
    with pytest.raises(ModelLoadError, match=r"needs 5,440 MiB \(weights 4,096 MiB.*2,048 MiB are"):
        check_fits(Path("big.gguf"), need, 2 << 30)
    check_fits(Path("big.gguf"), need, 6 << 30)
