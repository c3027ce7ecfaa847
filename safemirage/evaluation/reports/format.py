"""A condition in words: whom it asks about, and how its questions were rewritten."""

from collections.abc import Mapping

from safemirage.config.attack import NEUTRAL
from safemirage.config.rates import Metric
from safemirage.store.records import Row

PLAIN = "plain"

ATTACKS = {
    PLAIN: "as asked",
    "what": "rewritten to start with “what”",
    "share": "rewritten to start with “share”",
    NEUTRAL: "in neutral paraphrases that keep their first word",
    "unseen": "rewritten to start with a word that stands in no training set",
}

Table = Mapping[tuple[str, Metric], Row]
"""One model's headline rows by condition and metric."""


class Column:
    """A condition of the suite as a column: its name, whom it asks about, how its questions were rewritten."""

    def __init__(
        self, condition: str, *, subset: str, attack: str, attempts: int, questions: int
    ) -> None:
        self.condition = condition
        self.subset = subset
        self.attack = attack
        self.attempts = attempts
        """K: rewrites of each question."""
        self.questions = questions

    @property
    def says(self) -> str:
        """What the column's answers are to, in words."""
        how = ATTACKS.get(self.attack, f"after the attack “{self.attack}”")
        if self.attempts > 1:
            how += f" in {self.attempts} ways"
        return f"{self.questions} {self.subset} questions, {how}"
