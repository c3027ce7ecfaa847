"""Rates of one recipe over several seeds: the median and the range, not one draw.

    spreads({"10": rows_of_seed_10, "11": rows_of_seed_11})

Seeds draw another world, base or order of samples, so their rates differ by more than an interval over questions says.
Five of them give no interval worth its name; median, range and every single value do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from safemirage.evaluation.metrics.rates import headline
from safemirage.store.records import Row


@dataclass(frozen=True, kw_only=True)
class Spread:
    """One rate of one model over its seeds."""

    model: str
    condition: str
    metric: str
    values: Mapping[str, float]
    """Seed -> rate in 0..1, the seeds in the order they were given in; those without a value are left out."""

    @property
    def median(self) -> float | None:
        return median(self.values.values()) if self.values else None

    @property
    def low(self) -> float | None:
        return min(self.values.values(), default=None)

    @property
    def high(self) -> float | None:
        return max(self.values.values(), default=None)


def spreads(runs: Mapping[str, Sequence[Row]]) -> list[Spread]:
    """One a model, condition, metric and judge of the runs' headline rows, in order of appearance.

    Args:
        runs: seed -> the rows of all models that were measured with it.
    """
    found: dict[tuple[str, str, str, str], dict[str, Row]] = {}
    for seed, rows in runs.items():
        for row in headline(rows):
            found.setdefault((row.model, row.condition, row.metric, row.judge), {})[seed] = row
    return [
        Spread(
            model=model,
            condition=condition,
            metric=metric,
            values={
                seed: value
                for seed in runs
                if seed in of_seed and (value := of_seed[seed].value) is not None
            },
        )
        for (model, condition, metric, _), of_seed in found.items()
    ]
