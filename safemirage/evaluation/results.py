"""What `safemirage evaluate` and `safemirage rescore` say at their end."""

import json
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from safemirage.evaluation.calls import ModelCalls
from safemirage.evaluation.errors import EvaluationError
from safemirage.evaluation.metrics import Row, row_from, row_tree
from safemirage.evaluation.notices import notices
from safemirage.evaluation.tables import print_rates
from safemirage.store.evaluations import Evaluation


@dataclass(frozen=True, kw_only=True)
class Result:
    """A finished evaluation and what it cost."""

    evaluation: Evaluation
    rows: list[Row]
    calls: ModelCalls

    def print_to(self, console: Console) -> None:
        """The table, what could not be scored, and how often models were asked."""
        print_rates(console, self.rows)
        console.print(
            f"evaluation {self.evaluation.id}: {self.evaluation.done} samples", soft_wrap=True
        )
        console.print(
            f"model calls: {self.calls.answers} for answers, {self.calls.verdicts} for verdicts "
            "(what the store knows is not asked again)",
            soft_wrap=True,
        )

    def json(self) -> str:
        tree: dict[str, Any] = {
            "evaluation": self.evaluation.id,
            "samples": self.evaluation.done,
            "calls": {"answers": self.calls.answers, "verdicts": self.calls.verdicts},
            "rows": [row_tree(row) for row in self.rows],
            "notices": notices(self.rows),
            "spec": self.evaluation.spec,
        }
        return json.dumps(tree, indent=1, allow_nan=False)


def finished_result(evaluation: Evaluation, calls: ModelCalls) -> Result:
    """Raises EvaluationError when it did not finish, with the reason."""
    if evaluation.state != "finished" or evaluation.rows is None:
        reason = f": {evaluation.error}" if evaluation.error else ""
        raise EvaluationError(f"evaluation {evaluation.id} {evaluation.state}{reason}")
    rows = [row_from(tree) for tree in evaluation.rows]
    return Result(evaluation=evaluation, rows=rows, calls=calls)
