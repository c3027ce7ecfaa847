"""Finished evaluations out of the store, by id, by name, or by the config that made them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safemirage.config.evaluate import EvaluateConfig
from safemirage.config.identity import identity_tree
from safemirage.config.load import load_config
from safemirage.evaluation.errors import EvaluationError
from safemirage.evaluation.metrics import Row, headline, row_from
from safemirage.evaluation.samples import Sample, sample_from
from safemirage.store.database import Store
from safemirage.store.evaluations import Evaluation

_CONFIG_SUFFIXES = (".yaml", ".yml")
_SHOWN = 10
RESCORED = "rescored"
"""In the spec of an evaluation that judged another's answers again: the other's id."""


@dataclass(frozen=True, kw_only=True)
class StoredEvaluation:
    """An evaluation with its samples, under a name that its table is read by."""

    id: str
    name: str
    rows: list[Row]
    samples: list[Sample]
    spec: dict[str, Any]

    def judge(self, metric: str) -> str | None:
        """The judge that the metric is reported by: the first that measures it."""
        return next((row.judge for row in headline(self.rows) if row.metric == metric), None)

    @property
    def reading(self) -> str:
        """`corrected` or `paper`."""
        return reading_of(self.spec)

    @property
    def has_torn_groups(self) -> bool:
        """Whether questions were sampled as the original does, so that a group may hold rewrites of several."""
        return self.spec.get("config", {}).get("sampling") == "rows"

    @property
    def judge_keys(self) -> dict[str, Any]:
        """What each judge is made of, where the evaluation recorded it."""
        configs = self.spec.get("config", {}).get("judges", [])
        names = [config.get("title", config["name"]) for config in configs]
        keys = self.spec.get("judges", [])
        return dict(zip(names, keys, strict=True)) if len(names) == len(keys) else {}


def load_evaluations(store: Store, references: list[str]) -> list[StoredEvaluation]:
    """The evaluations, with names that differ: where two share one the reading is added, else the id is the name.

    Raises:
        EvaluationError: a reference fits no finished evaluation, or several; or one stands twice.
    """
    found = [find_evaluation(store, reference) for reference in references]
    ids = [evaluation.id for evaluation in found]
    if len(set(ids)) != len(ids):
        raise EvaluationError(f"evaluations {ids}: one stands twice")
    loaded = [load_evaluation(store, evaluation) for evaluation in found]
    names = [one.name for one in loaded]
    with_reading = [f"{one.name} ({one.reading})" for one in loaded]

    def name(one: StoredEvaluation, long: str) -> str:
        if names.count(one.name) == 1:
            return one.name
        return long if with_reading.count(long) == 1 else one.id

    return [
        replace(one, name=name(one, long)) for one, long in zip(loaded, with_reading, strict=True)
    ]


def reading_of(spec: Mapping[str, Any]) -> str:
    """The reading that an evaluation's rows were counted in: `corrected` or `paper`."""
    return str(spec.get("config", spec).get("protocol", "corrected"))


def load_evaluation(store: Store, evaluation: Evaluation) -> StoredEvaluation:
    assert evaluation.rows is not None, f"evaluation {evaluation.id} is finished"
    rows = [row_from(tree) for tree in evaluation.rows]
    return StoredEvaluation(
        id=evaluation.id,
        name=_name(evaluation),
        rows=rows,
        samples=[sample_from(tree) for tree in store.evaluations.samples(evaluation.id)],
        spec=evaluation.spec,
    )


def find_evaluation(store: Store, reference: str) -> Evaluation:
    """The finished evaluation of that id, name or config file; one that was rescored is found by its id alone.

    Raises:
        EvaluationError: there is none, or several have the name.
        ConfigError: the config file cannot be used.
    """
    by_id = store.evaluations.get(reference)
    if by_id is not None:
        if by_id.state != "finished":
            raise EvaluationError(f"evaluation {reference} is {by_id.state}, not finished")
        return by_id
    finished = [
        one for one in store.evaluations.list(states=("finished",)) if RESCORED not in one.spec
    ]
    if reference.endswith(_CONFIG_SUFFIXES):
        tree = identity_tree(load_config(EvaluateConfig, Path(reference)))
        found = [one for one in finished if one.spec.get("config") == tree]
        missing = "was not run, or did not finish: safemirage evaluate runs it"
    else:
        found = [one for one in finished if _name(one) == reference]
        missing = f"is neither an id nor a name; there are: {_listed(finished)}"
    if not found:
        raise EvaluationError(f"evaluation {reference!r} {missing}")
    if len(found) > 1:
        raise EvaluationError(
            f"evaluation {reference!r}: {len(found)} have that name; give one's id: {_listed(found)}"
        )
    return found[0]


def _name(evaluation: Evaluation) -> str:
    """What rows call the model; for an evaluation without rows, its own name or model."""
    if evaluation.rows:
        return str(evaluation.rows[0]["model"])
    return str(evaluation.spec.get("name") or evaluation.spec.get("model") or evaluation.id)


def _listed(evaluations: list[Evaluation]) -> str:
    ids = [one.id for one in evaluations[:_SHOWN]]
    more = [f"and {len(evaluations) - _SHOWN} more"] if len(evaluations) > _SHOWN else []
    return ", ".join(ids + more) or "none"
