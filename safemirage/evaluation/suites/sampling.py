"""The cases that an evaluation asks: those of its suite, or as many as are drawn."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from safemirage.config.evaluate import EvaluateConfig
from safemirage.config.vlguard import VLGuardConfig
from safemirage.evaluation.suites.folder import load_suite, sample_questions
from safemirage.evaluation.suites.sets import set_cases
from safemirage.evaluation.suites.vlguard import vlguard_cases
from safemirage.evaluation.types import Case


def load_cases(config: EvaluateConfig) -> list[Case]:
    """The cases of the config's suite, drawn as it says.

    Raises:
        SuiteError, DataError: the suite cannot be used.
    """
    if config.set is not None:
        cases = set_cases(config.set)
    else:
        cases = suite_cases(config.suite, config.vlguard)
    if config.sampling == "rows":
        return sample_rows(cases, config.sample, config.seed)
    return sample_questions(cases, config.sample, config.seed)


def suite_cases(suite: str | None, vlguard: VLGuardConfig | None) -> list[Case]:
    """All cases of the one of both that is given. Raises SuiteError or DataError."""
    if vlguard is not None:
        return vlguard_cases(vlguard)
    assert suite is not None, "the config checks that one of both is given"
    return load_suite(Path(suite).expanduser())


def sample_rows(cases: Sequence[Case], count: int | None, seed: int) -> list[Case]:
    """`count` rows of each case, drawn and grouped as the original does, which tears the rewrites of a question apart.

    Python's `random.Random(seed).sample` over the case's rows where 0 < count < their number; then any-of-K is taken
    over each K consecutive rows, K the suite's, and what is left over at the end is dropped. For the protocol `paper`
    only: `sample_questions` keeps questions whole.
    """
    result: list[Case] = []
    for name in dict.fromkeys(case.case for case in cases):
        rows = [case for case in cases if case.case == name]
        if count is None or not 0 < count < len(rows):
            result += rows
            continue
        attempts = max(Counter(case.group_id for case in rows).values())
        drawn = random.Random(seed).sample(rows, count)
        for place in range(len(drawn) // attempts * attempts):
            result.append(replace(drawn[place], group_id=f"rows {place // attempts}"))
    return result
