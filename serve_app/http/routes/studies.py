"""GET /v1/studies: searches with their trials."""

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Depends

from serve_app.http.auth import needs
from serve_app.http.errors import without_paths
from serve_app.resources import Study, Trial
from serve_app.service import Service


def study_routes(service: Service) -> APIRouter:
    router = APIRouter(tags=["studies"], dependencies=[Depends(needs("read"))])

    @router.get("/v1/studies")
    async def studies() -> dict[str, Any]:
        """Every search, newest first, with the number of its trials in each state."""
        return {"object": "list", "data": [_summary(study) for study in await service.studies()]}

    @router.get("/v1/studies/{study_id}")
    async def study(study_id: str) -> dict[str, Any]:
        """One search: each trial's parameters, state and objectives, and whether it is on the Pareto front."""
        found = await service.study(study_id)
        return {**_summary(found), "trials": [_trial(trial) for trial in found.trials]}

    return router


def _summary(study: Study) -> dict[str, Any]:
    states = [trial.state for trial in study.trials]
    return {
        "id": study.id,
        "object": "study",
        "name": study.name,
        "state": study.state,
        "is_live": study.is_live,
        "directions": dict(study.directions),
        "bounds": dict(study.bounds),
        "trial_states": {state: states.count(state) for state in sorted(set(states))},
        "progress": dict(study.progress),
        "error": study.error and without_paths(study.error),
        "created_at": study.created_at.isoformat(),
        "updated_at": study.updated_at.isoformat(),
    }


def _trial(trial: Trial) -> dict[str, Any]:
    return {**asdict(trial), "error": trial.error and without_paths(trial.error)}
