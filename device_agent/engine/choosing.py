"""From logits to tokens: which come next, how sure the model was of them, and what they end.

Whatever is raised for one sequence is a fault of that sequence's, and is returned beside what was chosen
for the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Sequences
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from collaboration.confidence import TokenScore, score_tokens
from device_agent.engine.job import Job
from device_agent.engine.requests import Alternative, FinishReason, Token
from device_agent.engine.sequence import Sequence

Logits = NDArray[np.float32]


@dataclass(slots=True)
class Choice:
    """The tokens that came next in one sequence."""

    job: Job
    row: int
    """Of the logits that the first was chosen from; those of the others follow."""
    tokens: list[int]
    in_memory: int
    """How many of the sequence's tokens the context remembers by now, wrong guesses included."""
    drafted: int = 0


Scored = tuple[list[Token], list[TokenScore]]
"""A choice's tokens, and their scores where the request wants them."""

Faults = dict[Job, Exception]


def choose_tokens(
    jobs: Sequences[Job], drafts: Mapping[Sequence, list[int]], logits: Logits
) -> tuple[list[Choice], Faults]:
    """Choose each job's next tokens from its rows of logits (rows, vocabulary).

    A job has one row, and one for each token that was drafted for it.
    """
    greedy = True in [job.sequence.greedy for job in jobs]
    likeliest: list[int] = logits.argmax(axis=1).tolist() if greedy else []
    choices: list[Choice] = []
    faults: Faults = {}
    row = 0
    for job in jobs:
        sequence = job.sequence
        draft = drafts.get(sequence, [])
        try:
            tokens = _choose(sequence, draft, row, likeliest, logits)
        except Exception as error:
            faults[job] = error
        else:
            in_memory = len(sequence.tokens) + len(draft)
            choices.append(Choice(job, row, tokens, in_memory, len(draft)))
        row += 1 + len(draft)
    return choices, faults


def _choose(
    sequence: Sequence, draft: list[int], row: int, likeliest: list[int], logits: Logits
) -> list[int]:
    """The next token, and those after it for as long as the draft guessed them."""
    if not draft:
        return [likeliest[row] if sequence.greedy else sequence.draw(logits[row])]
    tokens: list[int] = []
    for guess in [*draft, None]:
        at = row + len(tokens)
        token = likeliest[at] if sequence.greedy else sequence.draw(logits[at])
        tokens.append(token)
        if token != guess or sequence.ends_with(token):
            break
    return tokens


def score(choices: Sequences[Choice], logits: Logits) -> list[Scored | Exception]:
    """Score what was chosen, all together; where that fails, one by one."""
    try:
        return [*_score(choices, logits)]
    except Exception:
        return [_score_alone(choice, logits) for choice in choices]


def _score_alone(choice: Choice, logits: Logits) -> Scored | Exception:
    try:
        return _score([choice], logits)[0]
    except Exception as error:
        return error


def _score(choices: Sequences[Choice], logits: Logits) -> list[Scored]:
    rows: list[int] = []
    scored: list[int] = []
    for choice in choices:
        if choice.job.sequence.request.scores:
            rows += range(choice.row, choice.row + len(choice.tokens))
            scored += choice.tokens
    if not rows:
        return [([Token(token) for token in choice.tokens], []) for choice in choices]
    wanted = logits if len(rows) == len(logits) else logits[rows]
    scores, normalisers = score_tokens(wanted, np.asarray(scored))
    at = 0
    made: list[Scored] = []
    for choice in choices:
        request = choice.job.sequence.request
        if not request.scores:
            made.append(([Token(token) for token in choice.tokens], []))
            continue
        tokens: list[Token] = []
        mine = scores[at : at + len(choice.tokens)]
        for row, (token, token_score) in enumerate(zip(choice.tokens, mine, strict=True)):
            alternatives: tuple[Alternative, ...] = ()
            if request.top_logprobs:
                alternatives = _likeliest(
                    logits[choice.row + row], request.top_logprobs, normalisers[at + row]
                )
            tokens.append(Token(token, token_score.logprob, alternatives))
        made.append((tokens, mine))
        at += len(mine)
    return made


def _likeliest(logits: Logits, count: int, normaliser: float) -> tuple[Alternative, ...]:
    count = min(count, len(logits))
    tokens = np.argpartition(-logits, count - 1)[:count]
    tokens = tokens[np.argsort(-logits[tokens], kind="stable")]
    return tuple(Alternative(int(token), float(logits[token]) - normaliser) for token in tokens)


def grow(choice: Choice, scored: Scored) -> FinishReason | None:
    """Give a sequence its tokens; say whether, and why, they end it.

    What the context remembers beyond them (wrong guesses) is forgotten.
    """
    job = choice.job
    sequence = job.sequence
    reason = sequence.extend(*scored)
    sequence.position = len(sequence.tokens) - 1
    if sequence.position < choice.in_memory:
        position = sequence.position + sequence.position_shift
        job.context.context.trim(sequence.slot.index, position)
    sequence.slot.valid = min(sequence.remembered, len(sequence.slot.keys))
    return reason
