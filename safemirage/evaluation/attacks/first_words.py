"""A suite attacked by words: its plain questions, K rewrites of each for every word, and K neutral paraphrases of each.

Conditions are called `<condition>_<word>` and `<condition>_neutral`, where the plain one is `<condition>_plain` or `<condition>`; a question
keeps its group id in all of them, so that any-of-K, pairing and sampling work as with VLGuard's own files of rewrites.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from typing import Any, Literal

from safemirage.config.attack import (
    NEUTRAL,
    AttackConfig,
    ModelRewritesConfig,
    RewritesSourceConfig,
)
from safemirage.config.loading.identity import run_identity
from safemirage.config.vlguard import PLAIN
from safemirage.evaluation.attacks.model_rewriter import ModelRewriter
from safemirage.evaluation.attacks.rewriters import (
    OnRewritten,
    Rewriter,
    Rewritten,
    Target,
)
from safemirage.evaluation.attacks.rules import RuleRewriter
from safemirage.evaluation.errors import EvaluationError
from safemirage.evaluation.generators import Generator
from safemirage.evaluation.generators.asking import ModelCalls
from safemirage.evaluation.generators.build import open_generator
from safemirage.evaluation.suites.folder import sample_questions
from safemirage.evaluation.suites.sampling import suite_samples
from safemirage.evaluation.types import ATTEMPT, FIRST_QUESTION, Sample
from safemirage.store.database import Store

FORM = "rewrite"
"""The key in the target of a rewrite that says how it was made (`transform`, `carrier`, `prefix`, `model`)."""
_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class Missing:
    """A question with fewer than K rewrites."""

    sample_id: str
    """The id of the plain question."""
    question: str
    found: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Account:
    """What became of the questions of one plain condition under one attack."""

    condition: str
    attack: str
    attempts: int
    questions: int
    forms: Mapping[str, int]
    """How many rewrites were made in which way, those of dropped questions not counted."""
    missing: tuple[Missing, ...]

    @property
    def rewritten(self) -> int:
        """Questions with K rewrites."""
        return self.questions - len(self.missing)


@dataclass(frozen=True, kw_only=True)
class Attacked:
    samples: list[Sample]
    """The plain ones, then attack by attack, each in the suite's order."""
    accounts: list[Account]


async def attack_suite(
    config: AttackConfig,
    *,
    store: Store,
    calls: ModelCalls | None = None,
    on_progress: OnRewritten = lambda done, total: None,
) -> Attacked:
    """The suite that `config` describes. Run again, it asks models only what the store does not know.

    Raises:
        SuiteError, DataError: the suite cannot be used.
        EvaluationError: it has no plain question of an attacked subset, or with `on_missing: fail` too few rewrites.
        GeneratorUnavailable, ConfigError: a model cannot be opened or reached.
    """
    samples = suite_samples(config.suite, config.vlguard)
    plain = sample_questions(plain_samples(samples), config.sample, config.seed)
    attacks = _specs(config)
    async with AsyncExitStack() as stack:
        rewriter = await open_rewriter(
            config.source,
            stack,
            store=store,
            scope=f"attack:{run_identity(config)}",
            seed=config.seed,
            calls=calls or ModelCalls(),
            on_progress=on_progress,
        )
        return await attack_samples(plain, attacks, rewriter, on_missing=config.on_missing)


@dataclass(frozen=True, kw_only=True)
class AttackSpec:
    """An attack on the plain questions of a subset; the control is one, too."""

    attack: str
    subset: str
    attempts: int


def _specs(config: AttackConfig) -> list[AttackSpec]:
    """The attacks and, for each attacked subset, as many neutral paraphrases."""
    specs = [
        AttackSpec(attack=one.word, subset=one.subset, attempts=one.attempts)
        for one in config.attacks
    ]
    budgets = {one.subset: one.attempts for one in config.attacks} if config.control else {}
    return specs + [
        AttackSpec(attack=NEUTRAL, subset=subset, attempts=attempts)
        for subset, attempts in budgets.items()
    ]


async def open_rewriter(  # noqa: PLR0913 - what a rewriter works with
    source: RewritesSourceConfig,
    stack: AsyncExitStack,
    *,
    store: Store,
    scope: str,
    seed: int,
    calls: ModelCalls,
    on_progress: OnRewritten = lambda done, total: None,
) -> Rewriter:
    """Open until `stack` is left. Rewrites count as answers in `calls`, checks as verdicts."""
    if not isinstance(source, ModelRewritesConfig):
        return RuleRewriter(source)
    writer = await stack.enter_async_context(open_generator(source.model))
    checker: Generator = writer
    if source.checker is not None and source.checker != source.model:
        checker = await stack.enter_async_context(open_generator(source.checker))
    return ModelRewriter(
        source,
        calls.counted_answers(writer),
        calls.counted_verdicts(checker),
        samples=store.samples,
        scope=scope,
        seed=seed,
        on_progress=on_progress,
    )


def plain_samples(samples: Sequence[Sample]) -> list[Sample]:
    """The questions as they are, each group once a condition. Raises EvaluationError where one stands twice, or none is."""
    plain = [sample for sample in samples if sample.attack == PLAIN]
    if not plain:
        raise EvaluationError(
            f"the suite has no sample with attack {PLAIN!r}, so nothing to rewrite"
        )
    counts = Counter((sample.condition, sample.group_id) for sample in plain)
    twice = [f"{group} of {name}" for (name, group), count in counts.items() if count > 1]
    if twice:
        shown = ", ".join(twice[:_SHOWN])
        raise EvaluationError(f"plain questions: {shown} stand several times; a group has one")
    return plain


async def attack_samples(
    plain: Sequence[Sample],
    attacks: Sequence[AttackSpec],
    rewriter: Rewriter,
    *,
    on_missing: Literal["fail", "drop"],
) -> Attacked:
    """The plain conditions and their attacked ones, with what became of each. See `attack_suite`."""
    targets = []
    for attack in attacks:
        chosen = [sample for sample in plain if sample.subset == attack.subset]
        if not chosen:
            raise EvaluationError(f"attacks: the suite has no plain {attack.subset} question")
        targets += [
            Target(sample=sample, attack=attack.attack, attempts=attack.attempts)
            for sample in chosen
        ]
    # In one call, because rules give all attacks on a question, and its control, the same kinds of rewrites.
    rewritten = await rewriter.rewrite(targets)
    samples = list(plain)
    conditions: dict[tuple[str, str], list[tuple[Target, Rewritten]]] = {}
    for target, found in zip(targets, rewritten, strict=True):
        if len(found.rewrites) == target.attempts:
            samples += _rewritten_samples(target, found)
        key = (target.attack, target.sample.condition)
        conditions.setdefault(key, []).append((target, found))
    accounts = [_account(name, of_one) for (_, name), of_one in conditions.items()]
    if on_missing == "fail":
        _check_complete(accounts)
    return Attacked(samples=samples, accounts=accounts)


def attacked_name(condition: str, attack: str) -> str:
    """The name of a rewritten condition: `unsafe_plain` under `what` is `unsafe_what`."""
    return f"{condition.removesuffix(f'_{PLAIN}')}_{attack}"


def accounts_tree(accounts: Sequence[Account]) -> list[dict[str, Any]]:
    """The accounts as JSON, with every question that has too few rewrites."""
    return [{**asdict(one), "rewritten": one.rewritten} for one in accounts]


def _rewritten_samples(target: Target, rewritten: Rewritten) -> list[Sample]:
    plain, name = target.sample, attacked_name(target.sample.condition, target.attack)
    first = rewritten.rewrites[0].text
    return [
        Sample(
            sample_id=f"{name}/{plain.group_id}#{attempt}",
            condition=name,
            subset=plain.subset,
            attack=target.attack,
            group_id=plain.group_id,
            question=rewrite.text,
            image=plain.image,
            target={
                **plain.target,
                FIRST_QUESTION: first,
                ATTEMPT: str(attempt),
                FORM: rewrite.form,
            },
            prefill=plain.prefill,
        )
        for attempt, rewrite in enumerate(rewritten.rewrites, start=1)
    ]


def _account(condition: str, found: Sequence[tuple[Target, Rewritten]]) -> Account:
    first = found[0][0]
    complete = [one for target, one in found if len(one.rewrites) == target.attempts]
    return Account(
        condition=condition,
        attack=first.attack,
        attempts=first.attempts,
        questions=len(found),
        forms=dict(Counter(rewrite.form for one in complete for rewrite in one.rewrites)),
        missing=tuple(
            Missing(
                sample_id=target.sample.sample_id,
                question=target.sample.question,
                found=len(one.rewrites),
                reason=one.reason,
            )
            for target, one in found
            if len(one.rewrites) < target.attempts
        ),
    )


def _check_complete(accounts: Sequence[Account]) -> None:
    missing = [(one, item) for one in accounts for item in one.missing]
    if not missing:
        return
    lines = [
        f"  {one.attack}, {item.sample_id}: {item.found} of {one.attempts}: {item.reason}"
        for one, item in missing[:_SHOWN]
    ]
    more = [f"  ... and {len(missing) - _SHOWN} more"] if len(missing) > _SHOWN else []
    raise EvaluationError(
        "\n".join(
            [
                f"{len(missing)} questions have fewer rewrites than asked for, and any-of-K needs one K. More forms, "
                "fewer attempts or another source may help; on_missing: drop leaves them out of their attack's condition",
                *lines,
                *more,
            ]
        )
    )
