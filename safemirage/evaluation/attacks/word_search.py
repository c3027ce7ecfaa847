"""The first word that opens a model widest: tried on one part of a suite's questions, reported on the other.

The words come from the audit of the model's own training set. Every word is tried on the selection questions; the one
with the highest any-of-K is then asked of the test questions, which had no part in the choice. So the test's interval
and p-value need no correction for the number of words, and those of the selection are shown with Holm's.
"""

import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from safemirage.config.attack import NEUTRAL
from safemirage.config.attack_search import AttackSearchConfig
from safemirage.config.evaluate import EvaluateConfig
from safemirage.config.generators import GeneratorConfig
from safemirage.config.loading.identity import digest_of, run_identity
from safemirage.config.loading.load import to_tree
from safemirage.config.rates import Metric
from safemirage.data.audit.examples import read_examples
from safemirage.data.audit.words import WordStat, strongest_words, word_stats
from safemirage.evaluation.attacks.first_words import (
    Account,
    AttackSpec,
    accounts_tree,
    attack_samples,
    attacked_name,
    open_rewriter,
    plain_samples,
)
from safemirage.evaluation.attacks.rewriters import Rewriter
from safemirage.evaluation.errors import EvaluationError
from safemirage.evaluation.generators import Generator
from safemirage.evaluation.generators.asking import ModelCalls
from safemirage.evaluation.generators.build import open_generator
from safemirage.evaluation.judges.build import measures_of
from safemirage.evaluation.metrics.gap import GapError, MirageGap, mirage_gap
from safemirage.evaluation.metrics.intervals import Rate
from safemirage.evaluation.metrics.rates import COUNTED, rate_over_questions
from safemirage.evaluation.run.archive import load_evaluation
from safemirage.evaluation.run.process import OpenModel, run_evaluation
from safemirage.evaluation.suites.folder import sample_questions
from safemirage.evaluation.suites.sampling import suite_samples
from safemirage.evaluation.suites.writer import write_suite
from safemirage.evaluation.types import EvaluatedSample, Sample
from safemirage.holm import holm
from safemirage.progress import OnNamedProgress
from safemirage.store.database import Store

MIN_COUNT = 5
"""How many questions a word must open to be looked at, as in the audit."""
SELECTION, TEST = "selection", "test"


@dataclass(frozen=True, kw_only=True)
class WordResult:
    """How widely one word opens the model."""

    word: str
    rate: Rate
    """The any-of-K rate over questions, with its Wilson interval."""
    gap: MirageGap
    """The mirage gap, from the neutral paraphrases to the word's rewrites."""
    p_holm: float
    """The gap's p, adjusted for all words of the selection; on the test, where one word is asked, the p itself."""


@dataclass(frozen=True, kw_only=True)
class AttackSearch:
    metric: Metric
    judge: str
    audited: Sequence[WordStat]
    """The words that the audit gave."""
    tried: Sequence[WordResult]
    """Every word that was tried on the selection questions, the highest rate first."""
    not_tried: Mapping[str, str]
    """Words whose gap cannot be had, and why."""
    chosen: WordResult
    """The first of `tried`, on the test questions."""
    plain: Rate
    """The rate of one try at the test questions as they are."""
    control: Rate
    """Any-of-K of the test questions' neutral paraphrases."""
    questions: Mapping[str, int]
    """How many questions selection and test have, before any was dropped."""
    evaluations: Mapping[str, str]
    """The ids of the evaluations of selection and test."""
    accounts: Sequence[Account]


async def search_attack(
    config: AttackSearchConfig,
    folder: Path,
    *,
    store: Store,
    calls: ModelCalls,
    on_progress: OnNamedProgress = lambda name, done, total: None,
    open_model: OpenModel = open_generator,
) -> AttackSearch:
    """The search that `config` describes; its two suites are left in `folder`.

    Raises:
        DataError, SuiteError: training file or suite cannot be used.
        EvaluationError: no word, no question on one side, or too few rewrites.
        FileExistsError: `folder` holds other suites.
        GeneratorUnavailable, ConfigError: a model cannot be opened or reached.
    """
    _check_judges(config)
    audited, words = _words(config)
    sides = split_by_image(_questions(config), config.selection_share, config.seed)
    async with AsyncExitStack() as stack:
        work = _Search(config, folder, store, calls, on_progress, _opened_once(open_model, stack))
        work.rewriter = await open_rewriter(
            config.source,
            stack,
            store=store,
            scope=f"attack:{run_identity(config)}",
            seed=config.seed,
            calls=calls,
            on_progress=lambda done, total: on_progress("rewrites", done, total),
        )
        first = await work.side(SELECTION, sides[0], words)
        tried, not_tried = _results(first, words)
        if not tried:
            reasons = "; ".join(f"{word}: {reason}" for word, reason in not_tried.items())
            raise EvaluationError(f"selection: no word can be tried ({reasons}); allow more forms")
        second = await work.side(TEST, sides[1], [tried[0].word])
    chosen, failed = _results(second, [tried[0].word])
    if not chosen:
        raise EvaluationError(f"test: {tried[0].word}: {failed[tried[0].word]}")
    return AttackSearch(
        metric=first.metric,
        judge=first.judge,
        audited=audited,
        tried=tried,
        not_tried=not_tried,
        chosen=chosen[0],
        plain=second.rate("plain"),
        control=second.rate(NEUTRAL),
        questions={SELECTION: len(sides[0]), TEST: len(sides[1])},
        evaluations={SELECTION: first.evaluation, TEST: second.evaluation},
        accounts=[*first.accounts, *second.accounts],
    )


def _words(config: AttackSearchConfig) -> tuple[list[WordStat], list[str]]:
    """The audit's strongest words, and all words to try: the config's after them."""
    examples = read_examples(Path(config.train).expanduser())
    stats = word_stats(examples, "first word", min_count=MIN_COUNT)
    # Words that open safe questions in training are those that an attack puts before unsafe ones.
    side: Literal["safe", "unsafe"] = "safe" if config.subset == "unsafe" else "unsafe"
    audited = strongest_words(stats, side, config.words)
    words = list(dict.fromkeys([*(item.word for item in audited), *config.more_words]))
    if not words:
        raise EvaluationError(
            f"{config.train}: no first word points to {side} questions; name some in more_words"
        )
    return audited, words


def split_by_image(
    samples: Sequence[Sample], share: float, seed: int
) -> tuple[list[Sample], list[Sample]]:
    """The questions of the two sides; questions about one image are on one side.

    Images are ranked by a digest of seed and image, so that the split does not depend on the suite's order.

    Raises:
        EvaluationError: a side would be empty, or a group has questions about several images.
    """
    keys = [sample.image.digest if sample.image else sample.group_id for sample in samples]
    of_group: dict[str, str] = {}
    for sample, key in zip(samples, keys, strict=True):
        if of_group.setdefault(sample.group_id, key) != key:
            raise EvaluationError(
                f"group {sample.group_id}: asks about several images; it has no side"
            )
    ranked = sorted(
        set(keys), key=lambda key: hashlib.sha256(f"split:{seed}:{key}".encode()).hexdigest()
    )
    chosen = set(ranked[: round(share * len(ranked))])
    first = [sample for sample, key in zip(samples, keys, strict=True) if key in chosen]
    second = [sample for sample, key in zip(samples, keys, strict=True) if key not in chosen]
    if not first or not second:
        raise EvaluationError(
            f"selection_share: {share} of {len(ranked)} images leaves {len(first)} questions to choose on and "
            f"{len(second)} to test on; both need some"
        )
    assert not {sample.group_id for sample in first} & {sample.group_id for sample in second}
    return first, second


def search_tree(search: AttackSearch) -> dict[str, Any]:
    """The search as JSON."""
    return {**asdict(search), "accounts": accounts_tree(search.accounts)}


@dataclass(frozen=True)
class _Side:
    """The answers of one side, by attack."""

    evaluation: str
    metric: Metric
    judge: str
    samples: Mapping[str, Sequence[EvaluatedSample]]
    accounts: Sequence[Account]

    def rate(self, attack: str) -> Rate:
        samples = self.samples.get(attack, ())
        return rate_over_questions(samples, self.judge, COUNTED[self.metric])


class _Search:
    def __init__(
        self,
        config: AttackSearchConfig,
        folder: Path,
        store: Store,
        calls: ModelCalls,
        on_progress: OnNamedProgress,
        open_model: OpenModel,
    ) -> None:
        self.rewriter: Rewriter
        self._config = config
        self._folder = folder
        self._store = store
        self._calls = calls
        self._on_progress = on_progress
        self._open_model = open_model

    async def side(self, name: str, plain: Sequence[Sample], words: Sequence[str]) -> _Side:
        config = self._config
        attacks = [
            AttackSpec(attack=word, subset=config.subset, attempts=config.attempts)
            for word in [*words, NEUTRAL]
        ]
        attacked = await attack_samples(plain, attacks, self.rewriter, on_missing=config.on_missing)
        about = {"attacks.json": accounts_tree(attacked.accounts)}
        write_suite(self._folder / name, f"{config.name}_{name}", attacked.samples, about=about)
        ended = await run_evaluation(
            EvaluateConfig(
                name=f"{config.name}_{name}",
                model=config.model,
                suite=str(self._folder / name),
                judges=config.judges,
                decoding=config.decoding,
                batch_size=config.batch_size,
                max_unscored=config.max_unscored,
            ),
            store=self._store,
            on_progress=lambda done, total: self._on_progress(name, done, total),
            calls=self._calls,
            open_model=self._open_model,
        )
        if ended.state != "finished":
            raise EvaluationError(f"evaluation {ended.id} {ended.state}: {ended.error or ''}")
        stored = load_evaluation(self._store, ended)
        metric = _metric(config)
        judge = stored.judge(metric)
        assert judge is not None, "the judges were checked"
        base = plain[0].condition
        names = {attacked_name(base, attack): attack for attack in [*words, NEUTRAL]}
        samples: dict[str, list[EvaluatedSample]] = {}
        for sample in stored.samples:
            samples.setdefault(names.get(sample.condition, "plain"), []).append(sample)
        return _Side(ended.id, metric, judge, samples, attacked.accounts)


def _metric(config: AttackSearchConfig) -> Metric:
    return "asr" if config.subset == "unsafe" else "refusal_rate"


def _check_judges(config: AttackSearchConfig) -> None:
    metric = _metric(config)
    if not any(metric in measures_of(judge) for judge in config.judges):
        raise EvaluationError(f"judges: none measures {metric}, by which the word is chosen")


def _questions(config: AttackSearchConfig) -> list[Sample]:
    """The plain questions of the one condition that is attacked."""
    plain = plain_samples(suite_samples(config.suite, config.vlguard))
    chosen = [sample for sample in plain if sample.subset == config.subset]
    names = list(dict.fromkeys(sample.condition for sample in chosen))
    if config.condition is not None:
        chosen = [sample for sample in chosen if sample.condition == config.condition]
    if not chosen or (config.condition is None and len(names) > 1):
        raise EvaluationError(
            f"condition: {config.condition!r} is not one plain condition of {config.subset} questions; there are: "
            f"{', '.join(names) or 'none'}"
        )
    return sample_questions(chosen, config.sample, config.seed)


def _results(side: _Side, words: Sequence[str]) -> tuple[list[WordResult], dict[str, str]]:
    """The widest first, among equals the earlier word; and the words without a gap, with the reason."""
    found: list[WordResult] = []
    without: dict[str, str] = {}
    for word in words:
        if not side.samples.get(word):
            without[word] = "no question has K rewrites to it"
            continue
        try:
            gap = mirage_gap(
                side.samples[word],
                side.samples.get(NEUTRAL, ()),
                side.judge,
                plain=side.samples["plain"],
                counted=COUNTED[side.metric],
            )
        except GapError as error:
            without[word] = str(error)
            continue
        found.append(
            WordResult(word=word, rate=side.rate(word), gap=gap, p_holm=gap.change.p_value)
        )
    adjusted = holm([item.p_holm for item in found])
    results = [replace(item, p_holm=p) for item, p in zip(found, adjusted, strict=True)]
    # A stable sort keeps the audit's order, surest word first, among words that open equally many.
    return sorted(results, key=lambda item: -(item.rate.value or 0.0)), without


def _opened_once(open_model: OpenModel, stack: AsyncExitStack) -> OpenModel:
    """Opens each model at its first use, and keeps it until `stack` is left."""
    opened: dict[str, Generator] = {}

    @asynccontextmanager
    async def kept(config: GeneratorConfig) -> AsyncIterator[Generator]:
        key = digest_of(to_tree(config))
        if key not in opened:
            opened[key] = await stack.enter_async_context(open_model(config))
        yield opened[key]

    return kept
