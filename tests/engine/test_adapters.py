"""LoRA adapters: as if merged into the weights, request by request."""

from pathlib import Path

import pytest
from engines import MODELS, Gate, MakeEngine, suspended, together
from files import Lora, random_network, write_network

from airloom.errors import InvalidTaskError, ModelLoadError
from device_agent.engine import AdapterUse, Engine, GenerateRequest

PROMPT = "Who rules the land of abo? Q: 3+59=7. "


class Lab:
    """A base network, two adapters, and the networks that the adapters turn it into."""

    def __init__(self, folder: Path) -> None:
        self.network = random_network()
        self.base = write_network(self.network, folder / "base.gguf")
        self.loras = {"red": Lora(2), "blue": Lora(3)}
        self.files = {
            name: lora.write(folder / f"{name}.gguf") for name, lora in self.loras.items()
        }
        self.folder = folder

    def merged(self, name: str, scale: float) -> Path:
        network = self.loras[name].merged(self.network, scale)
        return write_network(network, self.folder / f"{name}-{scale}.gguf")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


@pytest.fixture(params=[1, 3, 8], ids="contexts-{}".format)
async def engine(lab: Lab, make_engine: MakeEngine, request: pytest.FixtureRequest) -> Engine:
    """With one context for all, with some for those that came first, with one for each."""
    engine = make_engine(lab.base, parallel=6, contexts=request.param)
    for name, path in lab.files.items():
        await engine.load_adapter(name, path)
    return engine


def asked(*uses: AdapterUse, prompt: str = PROMPT, tokens: int = 40) -> GenerateRequest:
    return GenerateRequest(prompt, adapters=uses, max_tokens=tokens, ignore_end=True)


@pytest.mark.parametrize(("name", "scale"), [("red", 1.0), ("blue", 1.0), ("red", -0.5)])
async def test_an_adapter_does_what_merging_it_would(
    name: str, scale: float, lab: Lab, engine: Engine, make_engine: MakeEngine
) -> None:
    merged = make_engine(lab.merged(name, scale))
    expected = await merged.generate(asked())
    found = await engine.generate(asked(AdapterUse(name, scale)))
    assert found.token_ids == expected.token_ids
    assert found.logprobs == pytest.approx(expected.logprobs, abs=0.05)
    assert found.token_ids != (await engine.generate(asked())).token_ids


async def test_requests_with_different_adapters_run_together_and_are_never_mixed_up(
    engine: Engine, gate: Gate
) -> None:
    kinds = [(), (AdapterUse("red"),), (AdapterUse("blue"),), (AdapterUse("red", 0.5),),
             (AdapterUse("red"), AdapterUse("blue"))]  # fmt: skip
    alone = [(await engine.generate(asked(*uses))).token_ids for uses in kinds]
    assert len(set(alone)) == len(kinds)
    found = await together(engine, [asked(*uses) for uses in kinds * 4], gate)
    assert [one.token_ids for one in found] == alone * 4
    switches = engine.statistics.adapter_switches
    # The sets that have a context of their own are never changed.
    assert switches == 0 if engine.settings.contexts > len(kinds) else switches > len(kinds)


async def test_a_context_goes_to_the_adapters_that_are_asked_for(
    lab: Lab, make_engine: MakeEngine, gate: Gate
) -> None:
    engine = make_engine(lab.base, parallel=2, contexts=2)
    for name, path in lab.files.items():
        await engine.load_adapter(name, path)
    uses = [AdapterUse("red"), AdapterUse("blue")]
    alone = {use.name: await engine.generate(asked(use)) for use in uses}
    # One context besides the first: each takes it over from the other, with nothing in it.
    assert engine.statistics.adapter_switches == 0
    for use in uses * 2:
        again = await engine.generate(asked(use))
        assert again.token_ids == alone[use.name].token_ids
        assert again.cached_tokens == 0
    both = await together(engine, [asked(use) for use in uses * 3], gate)
    assert [one.token_ids for one in both] == [alone[use.name].token_ids for use in uses * 3]


async def test_a_generation_with_an_adapter_goes_on_in_another_engine(
    lab: Lab, make_engine: MakeEngine, gate: Gate
) -> None:
    engines = [make_engine(lab.base, contexts=contexts) for contexts in (1, 3)]
    for engine in engines:
        await engine.load_adapter("red", lab.files["red"])
    request = asked(AdapterUse("red"), tokens=30)
    whole = await engines[0].generate(request)
    for here, there in (engines, engines[::-1]):
        gate.shut(after=10)
        state = await suspended(await here.start(request), gate)
        rest = await (await there.resume(state)).completion()
        assert rest.token_ids == whole.token_ids


async def test_what_one_adapter_read_is_not_taken_for_anothers(engine: Engine) -> None:
    await engine.generate(asked(AdapterUse("red")))
    other = await engine.generate(asked(AdapterUse("blue")))
    assert other.cached_tokens == 0
    again = await engine.generate(asked(AdapterUse("red")))
    assert again.cached_tokens == again.prompt_tokens - 1


async def test_an_activated_adapter_applies_from_its_invocation_on(
    lab: Lab, engine: Engine
) -> None:
    invocation = engine.model.tokenize("Q:", add_special=False)
    path = lab.loras["red"].write(lab.folder / "activated.gguf", invocation)
    await engine.load_adapter("activated", path)
    plain = await engine.generate(asked())
    use = AdapterUse("activated")
    activated = await engine.generate(asked(use))
    before = len(engine.model.tokenize(PROMPT.partition("Q:")[0]))
    # What stands before the invocation is the base model's, and came from its cache.
    assert activated.cached_tokens == before
    ordinary = await engine.generate(asked(AdapterUse("red")))
    assert len({plain.token_ids, activated.token_ids, ordinary.token_ids}) == 3
    with pytest.raises(InvalidTaskError, match="which the prompt does not contain"):
        await engine.generate(asked(use, prompt="Nothing of it."))
    with pytest.raises(InvalidTaskError, match="applied alone"):
        await engine.generate(asked(use, AdapterUse("blue")))


async def test_unknown_and_unfit_adapters_are_named(
    lab: Lab, engine: Engine, make_engine: MakeEngine
) -> None:
    with pytest.raises(InvalidTaskError, match=r"no adapter 'green' is loaded; loaded: blue, red"):
        await engine.generate(asked(AdapterUse("green")))
    with pytest.raises(InvalidTaskError, match="twice"):
        await engine.generate(asked(AdapterUse("red"), AdapterUse("red", 0.1)))
    with pytest.raises(ModelLoadError, match="'red' is loaded already"):
        await engine.load_adapter("red", lab.files["red"])
    with pytest.raises(ModelLoadError, match=r"no LoRA adapter for airloom-mathematics"):
        await make_engine().load_adapter("red", lab.files["red"])
    with pytest.raises(ModelLoadError, match="no LoRA adapter"):
        await engine.load_adapter("model", MODELS["mathematics"])


async def test_sets_of_adapters_that_nobody_asks_for_are_forgotten(engine: Engine) -> None:
    def scaled(scale: float) -> list[AdapterUse]:
        return [AdapterUse("red", scale)]

    expected = await engine.generate(asked(*scaled(1.0)))
    rare, usual = (engine.adapters.resolve(scaled(scale)) for scale in (1.0, 2.0))
    for number in range(1_000):
        engine.adapters.resolve(scaled(3.0 + number / 1_000))
        assert engine.adapters.resolve(scaled(2.0)) is usual
    # Another key: what the caches of keys and values hold is of the set that was forgotten.
    assert engine.adapters.resolve(scaled(1.0)).key > rare.key
    assert (await engine.generate(asked(*scaled(1.0)))).token_ids == expected.token_ids
