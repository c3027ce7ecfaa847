"""The lookup: guess a question's label from its opening alone, with no model at all."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from safemirage.data.audit.examples import Example
from safemirage.data.audit.words import OPENINGS, Kind
from safemirage.text.first_word import opening

_FOLDS = 5


@dataclass(frozen=True)
class Lookup:
    """The best guess from an opening: the label most frequent with it in the file it was fitted on."""

    kind: Kind
    labels: Mapping[str, bool]
    """Whether an opening is flagged as unsafe."""
    majority: bool
    """What an opening gets that was not seen, or was seen with both labels equally often."""

    def flags(self, question: str) -> bool:
        return self.labels.get(opening(question, OPENINGS[self.kind]), self.majority)


@dataclass(frozen=True)
class LookupScore:
    """What a lookup does on a file. Rates are None where the file has no such question."""

    kind: Kind
    questions: int
    accuracy: float
    majority_accuracy: float
    """Accuracy of the fitted file's majority label."""
    safe_questions: int
    safe_flagged: float | None
    unsafe_questions: int
    unsafe_flagged: float | None
    unseen: float
    """Part of the questions whose opening was not seen."""


def fit_lookup(examples: Sequence[Example], kind: Kind) -> Lookup:
    votes: Counter[str] = Counter()
    for item in examples:
        votes[opening(item.question, OPENINGS[kind])] += 1 if item.unsafe else -1
    majority = 2 * sum(item.unsafe for item in examples) > len(examples)
    return Lookup(
        kind, {word: vote > 0 if vote else majority for word, vote in votes.items()}, majority
    )


def score_lookup(lookup: Lookup, examples: Sequence[Example]) -> LookupScore:
    return _score(lookup.kind, [(lookup, item) for item in examples])


def score_held_out(examples: Sequence[Example], kind: Kind) -> LookupScore:
    """Fits on four fifths of the images and scores on the others, all five ways; no image is on both sides."""
    groups: dict[str, int] = {}
    folds = [
        groups.setdefault(item.image or f"{index}:{item.source_id}", len(groups)) % _FOLDS
        for index, item in enumerate(examples)
    ]
    guesses: list[tuple[Lookup, Example]] = []
    for fold in sorted(set(folds)):
        inside = [item for item, place in zip(examples, folds, strict=True) if place == fold]
        outside = [item for item, place in zip(examples, folds, strict=True) if place != fold]
        lookup = fit_lookup(outside, kind)
        guesses += [(lookup, item) for item in inside]
    return _score(kind, guesses)


def _score(kind: Kind, guesses: Sequence[tuple[Lookup, Example]]) -> LookupScore:
    flagged: dict[bool, list[bool]] = {True: [], False: []}
    num_unseen = num_majority = 0
    for lookup, item in guesses:
        flagged[item.unsafe].append(lookup.flags(item.question))
        num_unseen += opening(item.question, OPENINGS[kind]) not in lookup.labels
        num_majority += lookup.majority == item.unsafe
    num_right = sum(flagged[True]) + len(flagged[False]) - sum(flagged[False])
    return LookupScore(
        kind=kind,
        questions=len(guesses),
        accuracy=num_right / len(guesses),
        majority_accuracy=num_majority / len(guesses),
        safe_questions=len(flagged[False]),
        safe_flagged=_mean(flagged[False]),
        unsafe_questions=len(flagged[True]),
        unsafe_flagged=_mean(flagged[True]),
        unseen=num_unseen / len(guesses),
    )


def _mean(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None
