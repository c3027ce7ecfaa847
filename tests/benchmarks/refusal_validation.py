"""How the refusal rules do on answers of authors who had no say in them.

The patterns were written by hand, looking at VLGuard's training answers, at XSTest's labelled answers and at answers in
the styles of today's models (`tests/text/answers_by_style.json`). What can be chosen without looking is which of them
count. For each author, the rules are chosen on the answers of all *others*: a rule is dropped when it alone makes more
of their other answers refusals than refusals. Then that author's answers are judged.

    python -m tests.benchmarks.refusal_validation FILE...

Files are labelled answers, whose ids begin with the author (`gpt4/v2-14`), or VLGuard's own.
"""

import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from safemirage.evaluation.judges.audit import read_labelled
from safemirage.text.refusal_rules import Evidence, evidence


@dataclass(frozen=True)
class Answer:
    author: str
    refuses: bool
    evidence: Evidence


@dataclass(frozen=True, kw_only=True)
class Errors:
    flagged: int
    others: int
    missed: int
    refusals: int

    def __str__(self) -> str:
        return f"flagged {self.flagged}/{self.others}, missed {self.missed}/{self.refusals}"


def read_answers(paths: Iterable[Path]) -> list[Answer]:
    """VLGuard's answers have one author, whichever its file is."""
    found = []
    for path in paths:
        for item in read_labelled(path):
            sample = item.judged.sample
            author = (
                "vlguard" if "/safe" in sample.sample_id or "/unsafe" in sample.sample_id else ""
            )
            author = author or sample.sample_id.partition("/")[0]
            if item.judged.answer.strip():
                said = evidence(item.judged.answer, sample.question)
                found.append(Answer(author, item.label == "refuse", said))
    return found


def dropped_rules(answers: Sequence[Answer]) -> frozenset[str]:
    """The rules that, where one alone decides, are wrong more often than right."""
    right: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    for item in answers:
        rules = item.evidence.rules()
        if len(rules) == 1:
            (right if item.refuses else wrong)[rules[0]] += 1
    return frozenset(rule for rule in wrong if wrong[rule] > right[rule])


def errors_of(answers: Sequence[Answer], dropped: frozenset[str] = frozenset()) -> Errors:
    said = [(item.refuses, bool(item.evidence.rules(dropped))) for item in answers]
    return Errors(
        flagged=said.count((False, True)),
        others=sum(not refuses for refuses, _ in said),
        missed=said.count((True, False)),
        refusals=sum(refuses for refuses, _ in said),
    )


def leave_one_author_out(answers: Sequence[Answer]) -> dict[str, Errors]:
    """The errors on each author's answers, by the rules that the other authors' answers choose."""
    by_author: dict[str, list[Answer]] = defaultdict(list)
    for item in answers:
        by_author[item.author].append(item)
    return {
        author: errors_of(own, dropped_rules([item for item in answers if item.author != author]))
        for author, own in by_author.items()
    }


if __name__ == "__main__":
    read = read_answers(map(Path, sys.argv[1:]))
    for name, errors in leave_one_author_out(read).items():
        print(f"{name}: {errors}")
    print(f"all, by the rules as they are: {errors_of(read)}")
    print(f"rules that all of them together would drop: {sorted(dropped_rules(read))}")
