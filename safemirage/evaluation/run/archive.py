"""Finished evaluations out of the store, by id, by name, or by the config that made them."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from safemirage.config.evaluate import EvaluateConfig
from safemirage.config.loading.identity import identity_tree
from safemirage.config.loading.load import load_config
from safemirage.evaluation.errors import NoSuchEvaluation
from safemirage.evaluation.metrics.rates import StoredEvaluation
from safemirage.settings import Settings
from safemirage.store.database import Store
from safemirage.store.evaluations import Evaluation
from safemirage.store.records import EvaluationRecord

_CONFIG_SUFFIXES = (".yaml", ".yml")
_SHOWN = 10


def load_evaluations(
    store: Store, references: list[str], settings: Settings | None = None
) -> list[StoredEvaluation]:
    """The evaluations, with names that differ: where two share one the protocol is added, else the id is the name.

    Raises:
        NoSuchEvaluation: a reference fits no finished evaluation, or several; or one stands twice.
    """
    found = [find_evaluation(store, reference, settings) for reference in references]
    ids = [evaluation.id for evaluation in found]
    if len(set(ids)) != len(ids):
        raise NoSuchEvaluation(f"evaluations {ids}: one stands twice")
    loaded = [load_evaluation(store, evaluation) for evaluation in found]
    first: dict[str, str] = {}
    for one in loaded:
        if (twin := first.setdefault(one.content, one.id)) != one.id:
            raise NoSuchEvaluation(
                f"evaluations {twin} and {one.id}: the same model, suite and judges under two names; leave one out"
            )
    names = [one.name for one in loaded]
    with_protocol = [f"{one.name} ({one.protocol})" for one in loaded]

    def name(one: StoredEvaluation, long: str) -> str:
        if names.count(one.name) == 1:
            return one.name
        return long if with_protocol.count(long) == 1 else one.id

    return [
        replace(one, name=name(one, long)) for one, long in zip(loaded, with_protocol, strict=True)
    ]


def load_evaluation(store: Store, evaluation: Evaluation) -> StoredEvaluation:
    """A finished evaluation with its samples."""
    return StoredEvaluation.of(evaluation, store.evaluations.samples(evaluation.id))


def find_evaluation(store: Store, reference: str, settings: Settings | None = None) -> Evaluation:
    """The finished evaluation of that id, name or config file; one that was rescored is found by its id alone.

    Args:
        settings: where relative inputs of a config file are looked up; None: in the working folder.

    Raises:
        NoSuchEvaluation: there is none, or several have the name.
        ConfigError: the config file cannot be used.
    """
    by_id = store.evaluations.get(reference)
    if by_id is not None:
        if by_id.state != "finished":
            raise NoSuchEvaluation(f"evaluation {reference} is {by_id.state}, not finished")
        return by_id
    records = [(one, one.readable) for one in store.evaluations.list(states=("finished",))]
    finished = {
        one.id: (one, record) for one, record in records if record and record.rescored is None
    }
    if reference.endswith(_CONFIG_SUFFIXES):
        config = load_config(EvaluateConfig, Path(reference))
        tree = identity_tree(config if settings is None else settings.located(config))
        found = [one for one, record in finished.values() if record.config == tree]
        missing = "was not run, or did not finish: safemirage evaluate runs it"
    else:
        found = [one for one, record in finished.values() if _name(one, record) == reference]
        missing = f"is neither an id nor a name; there are: {_listed(finished)}"
    if not found:
        raise NoSuchEvaluation(f"evaluation {reference!r} {missing}")
    if len(found) > 1:
        raise NoSuchEvaluation(
            f"evaluation {reference!r}: {len(found)} have that name; give one's id: {_listed([one.id for one in found])}"
        )
    return found[0]


def _name(evaluation: Evaluation, record: EvaluationRecord) -> str:
    """What rows call the model; for an evaluation without rows, its record's name."""
    return evaluation.rows[0].model if evaluation.rows else record.name


def _listed(ids: Collection[str]) -> str:
    more = [f"and {len(ids) - _SHOWN} more"] if len(ids) > _SHOWN else []
    return ", ".join([*ids][:_SHOWN] + more) or "none"
