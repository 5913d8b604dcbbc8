"""Generated questions in three domains, split so that no held-out question can be trained on."""

from collaboration.questions.question import DOMAINS, Question, Split, split_of
from collaboration.questions.sampling import held_out, sample

__all__ = ["DOMAINS", "Question", "Split", "held_out", "sample", "split_of"]
