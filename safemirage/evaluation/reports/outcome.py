"""What `safemirage evaluate` and `safemirage rescore` say at their end."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from safemirage.evaluation.errors import EvaluationError
from safemirage.evaluation.metrics.rates import Row, row_from, row_tree
from safemirage.evaluation.record import read_evaluation
from safemirage.evaluation.reports.notices import notices
from safemirage.evaluation.reports.terminal import print_rates
from safemirage.evaluation.run.calls import ModelCalls
from safemirage.store.evaluations import Evaluation


@dataclass(frozen=True, kw_only=True)
class Result:
    """A finished evaluation and what it cost."""

    evaluation: Evaluation
    rows: list[Row]
    calls: ModelCalls

    def tree(self) -> dict[str, Any]:
        """The result for JSON."""
        return {
            "evaluation": self.evaluation.id,
            "samples": self.evaluation.done,
            "calls": {"answers": self.calls.answers, "verdicts": self.calls.verdicts},
            "rows": [row_tree(row) for row in self.rows],
            "notices": notices(self.rows),
            "spec": self.evaluation.spec,
        }


def finished_result(evaluation: Evaluation, calls: ModelCalls) -> Result:
    """Raises EvaluationError when it did not finish, with the reason."""
    if evaluation.state != "finished" or evaluation.rows is None:
        reason = f": {evaluation.error}" if evaluation.error else ""
        raise EvaluationError(f"evaluation {evaluation.id} {evaluation.state}{reason}")
    rows = [row_from(tree) for tree in evaluation.rows]
    return Result(evaluation=evaluation, rows=rows, calls=calls)


def print_results(console: Console, results: Sequence[Result]) -> None:
    """A table for each suite, with a line a model; then each evaluation's id, and how often models were asked."""
    suites: dict[str, list[Row]] = {}
    for result in results:
        suite = read_evaluation(result.evaluation).suite or ""
        suites.setdefault(suite, []).extend(result.rows)
    for suite, rows in suites.items():
        print_rates(console, rows, title=suite if len(suites) > 1 else "")
    for result in results:
        console.print(
            f"evaluation {result.evaluation.id}: {result.evaluation.done} samples",
            soft_wrap=True,
            markup=False,
        )
    answers = sum(result.calls.answers for result in results)
    verdicts = sum(result.calls.verdicts for result in results)
    console.print(
        f"model calls: {answers} for answers, {verdicts} for verdicts (what the store knows is not asked again)",
        soft_wrap=True,
    )
