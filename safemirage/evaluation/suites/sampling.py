"""The samples that an evaluation asks: those of its suite, or as many as are drawn."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from safemirage.config.evaluate import EvaluateConfig
from safemirage.config.vlguard import VLGuardConfig
from safemirage.evaluation.suites.folder import load_suite, sample_questions
from safemirage.evaluation.suites.sets import set_samples
from safemirage.evaluation.suites.vlguard import vlguard_samples
from safemirage.evaluation.types import Sample


def load_samples(config: EvaluateConfig) -> list[Sample]:
    """The samples of the config's suite, drawn as it says.

    Raises:
        SuiteError, DataError: the suite cannot be used.
    """
    if config.set is not None:
        samples = set_samples(config.set)
    else:
        samples = suite_samples(config.suite, config.vlguard)
    if config.sampling == "rows":
        return sample_rows(samples, config.sample, config.seed)
    return sample_questions(samples, config.sample, config.seed)


def suite_samples(suite: str | None, vlguard: VLGuardConfig | None) -> list[Sample]:
    """All samples of the one of both that is given. Raises SuiteError or DataError."""
    if vlguard is not None:
        return vlguard_samples(vlguard)
    assert suite is not None, "the config checks that one of both is given"
    return load_suite(Path(suite).expanduser())


def sample_rows(samples: Sequence[Sample], count: int | None, seed: int) -> list[Sample]:
    """`count` rows of each condition, drawn and grouped as the original does, which separates the rewrites of a question.

    Python's `random.Random(seed).sample` over the sample's rows where 0 < count < their number; then any-of-K is taken
    over each K consecutive rows, K the suite's, and what is left over at the end is dropped. For the protocol `paper`
    only: `sample_questions` keeps questions whole.
    """
    result: list[Sample] = []
    for name in dict.fromkeys(sample.condition for sample in samples):
        rows = [sample for sample in samples if sample.condition == name]
        if count is None or not 0 < count < len(rows):
            result += rows
            continue
        attempts = max(Counter(sample.group_id for sample in rows).values())
        drawn = random.Random(seed).sample(rows, count)
        for place in range(len(drawn) // attempts * attempts):
            result.append(replace(drawn[place], group_id=f"rows {place // attempts}"))
    return result
