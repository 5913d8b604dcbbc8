"""Drafts change how fast the text comes, never the text."""

import pytest
from engines import Gate, MakeEngine, together

from airloom.errors import ModelLoadError
from collaboration.questions import DOMAINS, held_out
from device_agent.engine import GenerateRequest, Sampling
from device_agent.engine.grammars.json_schema import any_json
from device_agent.engine.trial import Trial


@pytest.mark.usefixtures("everything_pays")
@pytest.mark.parametrize("temperature", [0.0, 0.8])
async def test_drafts_leave_the_text_as_it_is(
    temperature: float, make_engine: MakeEngine, gate: Gate
) -> None:
    plain = make_engine("cloud", parallel=4)
    drafted = make_engine("cloud", draft="mathematics", parallel=4)
    questions = held_out(8, 21, DOMAINS)
    requests = [
        GenerateRequest(
            plain.model.user_prompt(question.text),
            max_tokens=80,
            sampling=Sampling(temperature=temperature, top_p=0.95, seed=seed),
        )
        for seed, question in enumerate(questions)
    ]
    expected = [await plain.generate(request) for request in requests]
    found = await together(drafted, requests, gate)
    assert [one.text for one in found] == [one.text for one in expected]
    drafts = sum(one.drafted_tokens for one in found)
    accepted = sum(one.accepted_tokens for one in found)
    assert 0 < accepted < drafts
    # Accepted drafts are passes saved.
    assert drafted.statistics.passes < plain.statistics.passes


@pytest.mark.usefixtures("everything_pays")
async def test_a_model_that_drafts_for_itself_is_always_right(make_engine: MakeEngine) -> None:
    engine = make_engine(draft="mathematics")
    prompt = engine.model.user_prompt("What is 12+25?")
    completion = await engine.generate(GenerateRequest(prompt))
    assert completion.text.endswith("37")
    # Only what was drafted beyond the end is in vain.
    assert completion.accepted_tokens >= completion.drafted_tokens - engine.settings.draft_tokens


@pytest.mark.usefixtures("everything_pays")
async def test_drafts_obey_a_grammar_and_a_stop_string(make_engine: MakeEngine) -> None:
    plain, drafted = make_engine(), make_engine(draft="symbolic")
    prompt = plain.model.user_prompt("What is 12+25?")
    for request in (
        GenerateRequest(prompt, grammar=any_json(), max_tokens=60),
        GenerateRequest(prompt, stop=("=",)),
        GenerateRequest(prompt, max_tokens=3),
    ):
        expected, found = await plain.generate(request), await drafted.generate(request)
        assert (found.text, found.finish_reason) == (expected.text, expected.finish_reason)
        assert found.token_ids == expected.token_ids


def test_drafting_stops_where_it_does_not_pay_and_is_tried_again() -> None:
    trial = Trial()

    def passes(count: int, gain: float) -> list[bool]:
        taken = []
        for _ in range(count):
            drafted = trial.pays(1)
            taken.append(drafted)
            seconds = 1 / gain if drafted else 1.0
            trial.observe(1, other=drafted, passes=1, tokens=1, seconds=seconds)
        return taken

    slow = passes(256, gain=0.5)
    assert sum(slow) == 8
    fast = passes(256, gain=2.0)
    assert sum(fast) > 128
    assert trial.rates(1)[1] > trial.rates(1)[0]
    # What loses again and again is tried ever more rarely.
    passes(256, gain=0.5)
    assert sum(passes(512 + 1024 + 2048, gain=0.5)) == 3 * 8


def test_a_draft_with_another_vocabulary_is_refused(make_engine: MakeEngine) -> None:
    with pytest.raises(ModelLoadError, match="the vocabularies differ"):
        make_engine(draft="knowledge")
