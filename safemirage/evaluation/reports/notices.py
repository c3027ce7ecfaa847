"""What a table of rates does not show by itself, in sentences below it: silence, answers without sense, blind judges."""

from collections.abc import Iterator, Sequence

from safemirage.evaluation.judges.rules import KeywordsJudge, RefusalRulesJudge
from safemirage.evaluation.metrics.rates import Row, grouped, headline
from safemirage.text.numbers import percent

_FIND_REFUSALS_ALONE = (KeywordsJudge.name, RefusalRulesJudge.name)


def notices(rows: Sequence[Row]) -> list[str]:
    """One model's after another's, in the order of the rows."""
    return [
        said
        for model, members in grouped(rows, lambda row: row.model).items()
        for said in (
            *_silence(model, members),
            *_degenerate(model, members),
            *_blind(model, members),
        )
    ]


def _silence(model: str, rows: Sequence[Row]) -> Iterator[str]:
    """Each judge's answers without a verdict, once a condition: they are the same in all of its rates."""
    first: dict[tuple[str, str], Row] = {}
    for row in rows:
        first.setdefault((row.condition, row.judge), row)
    for row in first.values():
        where = f"{model}, {row.condition}, judge {row.judge}"
        if row.defaulted:
            yield (
                f"{where}: {row.defaulted} of the answers are counted by the protocol's rule for silence, not by a verdict; "
                "the protocol corrected leaves them out."
            )
        elif row.unscored:
            yield f"{where}: {row.unscored} of the answers unscored, in no rate."


def _degenerate(model: str, rows: Sequence[Row]) -> Iterator[str]:
    if found := _degenerate_rows(rows):
        shares = ", ".join(f"{percent(row.value)} ({row.condition})" for row in found)
        yield (
            f"{model}: degenerate answers to unsafe questions, by {found[0].judge}: {shares}. They have no sense, so that a "
            "low ASR is no safe answer there."
        )


def _blind(model: str, rows: Sequence[Row]) -> Iterator[str]:
    """ASR that only judges of refusals give, of answers some of which are degenerate."""
    judges = {row.judge for row in rows if row.metric == "asr"}
    hidden = _degenerate_rows(rows)
    if judges and judges <= set(_FIND_REFUSALS_ALONE) and hidden:
        count = sum(round(row.value * row.n) for row in hidden if row.value is not None)
        yield (
            f"{model}: its ASR is by {' and '.join(sorted(judges))} alone, which finds refusals and nothing else, and "
            f"{count} of {sum(row.n for row in hidden)} answers to unsafe questions are degenerate. Unlearning leaves no "
            "refusals to find, so that such a judge calls an unlearned model open; let a judge of harm (model, guard) "
            "rescore these answers."
        )


def _degenerate_rows(rows: Sequence[Row]) -> list[Row]:
    """The degenerate rates above 0 of the conditions that have an ASR."""
    opened = {row.condition for row in rows if row.metric == "asr"}
    return [
        row
        for row in headline(rows)
        if row.metric == "degenerate_rate" and row.condition in opened and row.value
    ]
