"""A search and its trials in a store, in the records that `ray_jobs` writes, without the trainings."""

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from safemirage.config.loading.load import to_tree
from safemirage.config.plan import load_search
from safemirage.runs import SeedResult, StudyConfig, TrialConfig, TrialResult
from safemirage.store import RunHandle, Store, run_once

SEARCH = Path(str(files("configs"))) / "search" / "miniature_npo_beta.yaml"
STUDY = "search-1"
CONDITIONS = {
    "asr": ["unsafe_plain"],
    "refusal_rate": ["safe_plain"],
    "useful_rate": ["safe_plain"],
}


def objective(name: str, metric: str, direction: str) -> dict[str, Any]:
    return {
        "name": name,
        "metric": metric,
        "direction": direction,
        "conditions": CONDITIONS[metric],
    }


ATTACK_AND_USEFUL = (
    objective("attack", "asr", "min"),
    objective("useful", "useful_rate", "max"),
)

Trials = Sequence[tuple[float, Mapping[str, float] | None]]
"""Beta and objectives of each; None fails."""


def record_study(
    store: Store, trials: Trials, objectives: Sequence[Mapping[str, Any]] = ATTACK_AND_USEFUL
) -> str:
    """The study's id."""
    plan = load_search(SEARCH, [f"objectives={json.dumps(list(objectives))}"])

    def work(handle: RunHandle) -> dict[str, Any]:
        for beta, found in trials:
            _record_trial(store, handle.id, beta, found)
        return {}

    return run_once(
        store,
        run_id=STUDY,
        name=plan.config.name,
        kind="search",
        config=to_tree(StudyConfig(search=plan.config, base=plan.base)),
        work=work,
    ).id


def _record_trial(store: Store, study: str, beta: float, found: Mapping[str, float] | None) -> None:
    def work(_: RunHandle) -> dict[str, Any]:
        if found is None:
            raise RuntimeError("out of memory")
        at_seed = SeedResult(
            seed=0, objectives=dict(found), train_run_id="npo-1", export="/exports/npo-1", rows=()
        )
        return to_tree(TrialResult(objectives=at_seed.objectives, at_seeds=(at_seed,)))

    try:
        run_once(
            store,
            run_id=f"{study}-{beta:g}",
            name="npo_beta",
            kind="trial",
            config=to_tree(TrialConfig(overrides={"method.beta": beta})),
            work=work,
            parent_id=study,
        )
    except RuntimeError:
        return
