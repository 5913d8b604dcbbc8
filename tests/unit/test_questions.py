"""Training and held-out questions are disjoint, and reference answers are right."""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collaboration.prompting import extract_answer
from collaboration.questions import DOMAINS, held_out, sample, split_of
from collaboration.questions.examples import draw, peer_answers, wrong_answer
from collaboration.questions.knowledge import RELATIONS, knowledge_base
from collaboration.questions.question import LEVELS, Domain
from learning.shipped_models.corpus import draw_example
from learning.shipped_models.recipes import RECIPES

domains = st.sampled_from(DOMAINS)
levels = st.sampled_from(LEVELS)
seeds = st.integers(0, 2**32)


@given(domains, levels, seeds)
def test_a_sample_is_of_the_split_that_was_asked_for(domain: Domain, level: int, seed: int) -> None:
    rng = random.Random(seed)
    assert split_of(sample(rng, domain, level, "train").key) == "train"
    assert split_of(sample(rng, domain, level, "held-out").key) == "held-out"


def test_no_held_out_question_is_ever_trained_on() -> None:
    asked = {question.text for question in held_out(1500, seed=9)}
    rng = random.Random(1)
    for recipe in RECIPES.values():
        for _ in range(800):
            prompt = draw_example(rng, recipe, recipe.cycles[0].shares).prompt
            assert prompt.split("\n")[0] not in asked


@given(domains, levels, seeds)
def test_the_solution_ends_in_the_marked_answer(domain: Domain, level: int, seed: int) -> None:
    question = sample(random.Random(seed), domain, level, "train")
    assert extract_answer(question.solution) == question.answer
    assert "\n" not in question.text
    assert question.text.isascii()


@given(levels, seeds)
def test_arithmetic_steps_are_true(level: int, seed: int) -> None:
    question = sample(random.Random(seed), "mathematics", level, "train")
    for worked, result in question.steps:
        what, _, columns = worked.partition(":")
        assert re.fullmatch(r"\d+[-+*]\d+", what)
        assert eval(what) == int(result)
        values = []
        for column in columns.split(","):
            sides = column.split("=")
            assert eval(sides[0]) == int(sides[1])
            values.append(int(sides[1]))
        # The columns' last digits, and all of the last column, spell the result.
        digits = [str(value % 10) for value in values[:-1]]
        assert int("".join([str(values[-1]), *reversed(digits)])) == int(result)


@given(levels, seeds)
def test_boolean_answers_are_true(level: int, seed: int) -> None:
    question = sample(random.Random(seed), "symbolic", level, "train")
    if question.kind == "boolean":
        first, *rest = re.split(r" (?=(?:and|or) )", question.text.partition(": ")[2])
        value = eval(first)
        for clause in rest:
            operator, _, operand = clause.partition(" ")
            value = (value and eval(operand)) if operator == "and" else (value or eval(operand))
        assert question.answer == str(value)


def test_one_to_one_relations_can_be_asked_backwards() -> None:
    base = knowledge_base()
    for relation in RELATIONS:
        if relation.backward:
            objects = list(base.facts[relation.name].values())
            assert len(set(objects)) == len(objects)


@given(domains, levels, seeds)
def test_a_wrong_answer_is_wrong(domain: Domain, level: int, seed: int) -> None:
    rng = random.Random(seed)
    question = sample(rng, domain, level, "train")
    assert wrong_answer(rng, question) != question.answer


def test_peers_are_right_as_often_as_they_say() -> None:
    rng = random.Random(5)
    said, right, total = 0.0, 0, 0
    for _ in range(1500):
        question = sample(rng, rng.choice(DOMAINS), rng.choice(LEVELS), "train")
        for peer in peer_answers(rng, question):
            said += peer.confidence
            right += peer.answer == question.answer
            total += 1
    assert abs(said - right) / total < 0.04


@given(domains, levels, seeds, st.booleans())
def test_examples_always_mark_an_answer(
    domain: Domain, level: int, seed: int, expert: bool
) -> None:
    rng = random.Random(seed)
    example = draw(rng, sample(rng, domain, level, "train"), expert=expert)
    assert extract_answer(example.completion)


def test_held_out_questions_are_the_same_for_the_same_seed() -> None:
    assert held_out(60, 7) == held_out(60, 7)
    assert held_out(60, 7) != held_out(60, 8)
    assert len({q.id for q in held_out(60, 7)}) == 60


def test_asking_for_more_questions_than_exist_is_an_error() -> None:
    with pytest.raises(ValueError, match="different held-out questions exist"):
        held_out(100_000, 1, ["knowledge"], [2])
