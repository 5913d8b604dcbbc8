"""Questions over a generated but fixed knowledge base, of one to three hops.

Level 1: one fact, asked forwards. Level 2: one fact, asked backwards. Level 3: two facts chained
forwards. Level 4: two facts, the first of them backwards. Level 5: three, the first backwards.

A one-hop question is held out as (fact, wording): the fact is seen in training in other words. A
longer one is held out as the chain itself, in every wording.
"""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass

from collaboration.questions.question import Question

KNOWLEDGE_SEED = 20260501
COUNTRIES = 120
PEOPLE = 200

_ONSETS = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "dr", "st")
_VOWELS = ("a", "e", "i", "o", "u")
_CODAS = ("", "l", "n", "r", "s", "m")
_FOODS = (
    "rice",
    "corn",
    "tea",
    "salt",
    "wine",
    "wool",
    "silk",
    "iron",
    "gold",
    "tin",
    "jade",
    "oil",
)
_JOBS = ("baker", "pilot", "judge", "nurse", "poet", "smith", "tailor", "miner", "actor", "clerk")
_COLORS = ("red", "blue", "green", "white", "black", "gray", "pink", "brown")


@dataclass(frozen=True, slots=True)
class Relation:
    """A functional relation from one kind of entity to another, with its wordings.

    In `forward` wordings `{s}` stands for the subject; in `backward` ones `{o}` for the object.
    Only one-to-one relations have backward wordings.
    """

    name: str
    subject_kind: str
    object_kind: str
    forward: tuple[str, ...]
    backward: tuple[str, ...] = ()


RELATIONS: tuple[Relation, ...] = (
    Relation(
        "capital",
        "country",
        "city",
        (
            "What is the capital of {s}?",
            "Which city is the capital of {s}?",
            "Name the capital of {s}.",
            "{s} has which capital?",
        ),
        (
            "{o} is the capital of which country?",
            "Which country has the capital {o}?",
            "Name the country with capital {o}.",
            "Of which country is {o} the capital?",
        ),
    ),
    Relation(
        "ruler",
        "country",
        "person",
        (
            "Who is the ruler of {s}?",
            "Who rules {s}?",
            "Name the ruler of {s}.",
            "{s} has which ruler?",
        ),
        (
            "{o} is the ruler of which country?",
            "Which country has the ruler {o}?",
            "Name the country ruled by {o}.",
            "Which country does {o} rule?",
        ),
    ),
    Relation(
        "river",
        "country",
        "river",
        (
            "What is the main river of {s}?",
            "Which river flows in {s}?",
            "Name the river of {s}.",
            "{s} has which river?",
        ),
        (
            "{o} is the river of which country?",
            "Which country has the river {o}?",
            "Name the country with river {o}.",
            "Where does the river {o} flow?",
        ),
    ),
    Relation(
        "export",
        "country",
        "good",
        (
            "What is the main export of {s}?",
            "What does {s} export?",
            "Name the export of {s}.",
            "{s} has which export?",
        ),
    ),
    Relation(
        "mayor",
        "city",
        "person",
        (
            "Who is the mayor of {s}?",
            "Who leads the city of {s}?",
            "Name the mayor of {s}.",
            "{s} has which mayor?",
        ),
        (
            "{o} is the mayor of which city?",
            "Which city has the mayor {o}?",
            "Name the city led by {o}.",
            "Which city does {o} lead?",
        ),
    ),
    Relation(
        "job",
        "person",
        "job",
        (
            "What is the job of {s}?",
            "What does {s} do for a living?",
            "Name the job of {s}.",
            "{s} has which job?",
        ),
    ),
    Relation(
        "color",
        "person",
        "color",
        (
            "What is the favorite color of {s}?",
            "Which color does {s} like?",
            "Name the color of {s}.",
            "{s} has which favorite color?",
        ),
    ),
)

CHAINS: tuple[tuple[str, str], ...] = (
    ("capital", "mayor"),
    ("ruler", "job"),
    ("ruler", "color"),
    ("mayor", "job"),
    ("mayor", "color"),
)
BACKWARD_CHAINS: tuple[tuple[str, str], ...] = (
    ("capital", "ruler"),
    ("capital", "river"),
    ("river", "capital"),
    ("ruler", "export"),
    ("river", "export"),
    ("ruler", "capital"),
)
THREE_HOPS: tuple[tuple[str, str, str], ...] = (
    ("capital", "ruler", "job"),
    ("capital", "ruler", "color"),
    ("river", "ruler", "job"),
    ("river", "ruler", "color"),
    ("river", "capital", "mayor"),
    ("ruler", "capital", "mayor"),
)
_CHAIN_WORDINGS = (
    "What is the {r2} of the {r1} of {s}?",
    "Name the {r2} of the {r1} of {s}.",
)
_BACKWARD_CHAIN_WORDINGS = (
    "What is the {r2} of the country with {r1} {o}?",
    "Name the {r2} of the country whose {r1} is {o}.",
)
_THREE_HOP_WORDINGS = (
    "What is the {r3} of the {r2} of the country with {r1} {o}?",
    "Name the {r3} of the {r2} of the country whose {r1} is {o}.",
)


@dataclass(frozen=True)
class KnowledgeBase:
    """Every fact, as relation name → subject → object."""

    facts: dict[str, dict[str, str]]

    def subjects(self, relation: str) -> list[str]:
        """The subjects of a relation in a stable order."""
        return sorted(self.facts[relation])


@functools.cache
def knowledge_base() -> KnowledgeBase:
    """Build the one knowledge base that all models and questions share."""
    rng = random.Random(KNOWLEDGE_SEED)
    taken: set[str] = set()

    def name(syllables: int) -> str:
        while True:
            parts = [rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(syllables)]
            candidate = ("".join(parts) + rng.choice(_CODAS)).capitalize()
            if candidate not in taken and 4 <= len(candidate) <= 8:
                taken.add(candidate)
                return candidate

    countries = [name(3) for _ in range(COUNTRIES)]
    cities = [name(2) for _ in range(COUNTRIES)]
    rivers = [name(2) for _ in range(COUNTRIES)]
    people = [name(2) for _ in range(PEOPLE)]
    rulers = rng.sample(people, COUNTRIES)
    mayors = rng.sample(people, COUNTRIES)
    return KnowledgeBase(
        {
            "capital": dict(zip(countries, cities, strict=True)),
            "ruler": dict(zip(countries, rulers, strict=True)),
            "river": dict(zip(countries, rivers, strict=True)),
            "export": {country: rng.choice(_FOODS) for country in countries},
            "mayor": dict(zip(cities, mayors, strict=True)),
            "job": {person: rng.choice(_JOBS) for person in people},
            "color": {person: rng.choice(_COLORS) for person in people},
        }
    )


def _forward(rng: random.Random, level: int) -> Question:
    base = knowledge_base()
    relation = rng.choice(RELATIONS)
    subject = rng.choice(base.subjects(relation.name))
    answer = base.facts[relation.name][subject]
    wording = rng.randrange(len(relation.forward))
    return Question(
        domain="knowledge",
        kind=f"{relation.name}-of",
        level=level,
        key=f"knowledge/{relation.name}/{subject}/{wording}",
        text=relation.forward[wording].format(s=subject),
        steps=((f"{relation.name} of {subject}", answer),),
        answer=answer,
    )


def _backward(rng: random.Random, level: int) -> Question:
    base = knowledge_base()
    relation = rng.choice([relation for relation in RELATIONS if relation.backward])
    subject = rng.choice(base.subjects(relation.name))
    known = base.facts[relation.name][subject]
    wording = rng.randrange(len(relation.backward))
    return Question(
        domain="knowledge",
        kind=f"{relation.name}-inverse",
        level=level,
        key=f"knowledge/{relation.name}-inverse/{known}/{wording}",
        text=relation.backward[wording].format(o=known),
        steps=((f"{relation.name} {known} of", subject),),
        answer=subject,
    )


def _chain(rng: random.Random, level: int) -> Question:
    base = knowledge_base()
    first, second = rng.choice(CHAINS)
    subject = rng.choice(base.subjects(first))
    middle = base.facts[first][subject]
    answer = base.facts[second][middle]
    text = rng.choice(_CHAIN_WORDINGS).format(r1=first, r2=second, s=subject)
    return Question(
        domain="knowledge",
        kind=f"{first}-{second}",
        level=level,
        key=f"knowledge/{first}/{second}/{subject}",
        text=text,
        steps=((f"{first} of {subject}", middle), (f"{second} of {middle}", answer)),
        answer=answer,
    )


def _backward_chain(rng: random.Random, level: int) -> Question:
    base = knowledge_base()
    first, second = rng.choice(BACKWARD_CHAINS)
    middle = rng.choice(base.subjects(first))
    known = base.facts[first][middle]
    answer = base.facts[second][middle]
    text = rng.choice(_BACKWARD_CHAIN_WORDINGS).format(r1=first, r2=second, o=known)
    return Question(
        domain="knowledge",
        kind=f"{first}-inverse-{second}",
        level=level,
        key=f"knowledge/{first}-inverse/{second}/{known}",
        text=text,
        steps=((f"{first} {known} of", middle), (f"{second} of {middle}", answer)),
        answer=answer,
    )


def _three_hops(rng: random.Random, level: int) -> Question:
    base = knowledge_base()
    first, second, third = rng.choice(THREE_HOPS)
    country = rng.choice(base.subjects(first))
    known = base.facts[first][country]
    middle = base.facts[second][country]
    answer = base.facts[third][middle]
    wording = rng.choice(_THREE_HOP_WORDINGS)
    return Question(
        domain="knowledge",
        kind=f"{first}-inverse-{second}-{third}",
        level=level,
        key=f"knowledge/{first}-inverse/{second}/{third}/{known}",
        text=wording.format(r1=first, r2=second, r3=third, o=known),
        steps=(
            (f"{first} {known} of", country),
            (f"{second} of {country}", middle),
            (f"{third} of {middle}", answer),
        ),
        answer=answer,
    )


_BY_LEVEL = {1: _forward, 2: _backward, 3: _chain, 4: _backward_chain, 5: _three_hops}


def generate(rng: random.Random, level: int) -> Question:
    """Draw one knowledge question of the level (1 to 5)."""
    return _BY_LEVEL[level](rng, level)
