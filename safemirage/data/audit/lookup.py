"""The lookup: guess the label of a question or a picture from one feature alone, with no model at all."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_FOLDS = 5


@dataclass(frozen=True)
class Labelled:
    """A question or a picture as a lookup sees it."""

    feature: str
    unsafe: bool
    group: str
    """What it shares with others that must be on its side of a split, such as the picture that several ask about."""


@dataclass(frozen=True)
class Lookup:
    """The best guess from a feature: the label most frequent with it in the file it was fitted on."""

    kind: str
    labels: Mapping[str, bool]
    """Whether a value of the feature is flagged as unsafe."""
    majority: bool
    """What a value gets that was not seen, or was seen with both labels equally often."""

    def flags(self, feature: str) -> bool:
        return self.labels.get(feature, self.majority)


@dataclass(frozen=True)
class LookupScore:
    """What a lookup does on a file. Rates are None where the file has no such question (or picture)."""

    kind: str
    questions: int
    accuracy: float
    majority_accuracy: float
    """Accuracy of the fitted file's majority label."""
    safe_questions: int
    safe_flagged: float | None
    unsafe_questions: int
    unsafe_flagged: float | None
    unseen: float
    """Part of the questions whose feature was not seen."""

    @property
    def removed(self) -> float:
        """Part of the majority guess's errors that the lookup does not make."""
        return (self.accuracy - self.majority_accuracy) / max(1 - self.majority_accuracy, 1e-12)


def fit_lookup(items: Sequence[Labelled], kind: str) -> Lookup:
    votes: Counter[str] = Counter()
    for item in items:
        votes[item.feature] += 1 if item.unsafe else -1  # the sum's sign is the more frequent label
    majority = 2 * sum(item.unsafe for item in items) > len(items)
    return Lookup(
        kind, {value: vote > 0 if vote else majority for value, vote in votes.items()}, majority
    )


def score_lookup(lookup: Lookup, items: Sequence[Labelled]) -> LookupScore:
    return _score(lookup.kind, [(lookup, item) for item in items])


def score_held_out(items: Sequence[Labelled], kind: str) -> LookupScore:
    """Fits on four fifths of the groups and scores on the others, all five ways; no group is on both sides."""
    groups: dict[str, int] = {}
    folds = [groups.setdefault(item.group, len(groups)) % _FOLDS for item in items]
    guesses: list[tuple[Lookup, Labelled]] = []
    for fold in sorted(set(folds)):
        inside = [item for item, place in zip(items, folds, strict=True) if place == fold]
        outside = [item for item, place in zip(items, folds, strict=True) if place != fold]
        lookup = fit_lookup(outside, kind)
        guesses += [(lookup, item) for item in inside]
    return _score(kind, guesses)


def _score(kind: str, guesses: Sequence[tuple[Lookup, Labelled]]) -> LookupScore:
    flagged: dict[bool, list[bool]] = {True: [], False: []}
    num_unseen = num_majority = 0
    for lookup, item in guesses:
        flagged[item.unsafe].append(lookup.flags(item.feature))
        num_unseen += item.feature not in lookup.labels
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
