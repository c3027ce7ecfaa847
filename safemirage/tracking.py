"""Experiment tracking by MLflow, and the same curves for TensorBoard. The only module that imports mlflow.

    tracker = open_tracker(storage, "safemirage")
    tracker.start("npo-12ab", name="npo", config=tree)
    tracker.log_steps("npo-12ab", [{"step": 1, "loss": 2.5}])

Runs are found by their tag `safemirage.run_id`, so the curves of a run that is resumed continue where they ended.
"""

import json
import logging
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from safemirage.config.loading.load import dump_yaml
from safemirage.databases import creation_turn
from safemirage.settings import Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow.tracking import MlflowClient
    from tensorboardX import SummaryWriter

RUN_TAG = "safemirage.run_id"
PARENT_TAG = "mlflow.parentRunId"
SEARCHES_TAG = "safemirage.searches"
"""Tag of a training: the searches that came to it, by their ids."""
CONFIG_FILE = "config.yaml"
_SERVER_FAULT = 500
_BATCH = 1000
_PARAM_BATCH = 100
_PARAM_LENGTH = 6000
"""MLflow's own limits of one `log_batch` call and of one value."""


class Tracker:
    """Runs of one MLflow experiment. One process writes a run at a time; reading is free."""

    def __init__(self, uri: str, *, experiment: str, artifacts: Path | None, boards: Path) -> None:
        """
        Args:
            uri: tracking server or database.
            boards: folder of TensorBoard's files, which hold the same metrics: a folder a run.
            artifacts: folder of the experiment's files; None leaves it to the server. A database's own default would
                be relative to whatever folder a process happens to run in.
        """
        self._client = _client(uri)
        self._experiment_id = self._find_experiment(experiment, artifacts)
        self._ids: dict[str, str] = {}
        self._boards = boards
        self._open_boards: dict[str, SummaryWriter] = {}

    def start(
        self, run_id: str, *, name: str, config: Mapping[str, Any], parent_id: str | None = None
    ) -> None:
        """Makes the run known, or resumes it; `parent_id` is the run that it is part of (a search)."""
        # A resumed run: its curves continue, and its parameters are there.
        if (found := self._find(run_id)) is not None:
            self._client.update_run(found, status="RUNNING")
            return
        tags = {RUN_TAG: run_id}
        if parent_id is not None:
            # A parent that is not tracked yet is made, so that the child need not wait for it.
            tags[PARENT_TAG] = self._find(parent_id) or self._create(
                parent_id, {RUN_TAG: parent_id}, parent_id
            )
        created = self._create(run_id, tags, name)
        self._client.log_text(created, dump_yaml(config), CONFIG_FILE)
        self._log_params(created, config)

    def nest(self, run_id: str, *, parent_id: str, name: str) -> None:
        """Shows a run below another, under a name that tells it from the others there. A run has one parent: of several
        searches that came to the same training, the last has it, and a tag names them all."""
        found, parent = self._client.get_run(self._id(run_id)), self._id(parent_id)
        searches = found.data.tags.get(SEARCHES_TAG, "").split()
        self._client.update_run(self._id(run_id), name=name)
        tags = {PARENT_TAG: parent, SEARCHES_TAG: " ".join(dict.fromkeys([*searches, parent_id]))}
        self.set_tags(run_id, tags)

    def log_steps(self, run_id: str, steps: Sequence[Mapping[str, float]]) -> None:
        """Metrics by name; each step has its number, from 1 on, under `step`."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [
            Metric(name, value, now, int(step["step"]))
            for step in steps
            for name, value in step.items()
            if name != "step"
        ]
        for start in range(0, len(metrics), _BATCH):
            self._client.log_batch(self._id(run_id), metrics=metrics[start : start + _BATCH])
        board = self._board(run_id)
        for metric in metrics:
            board.add_scalar(metric.key, metric.value, metric.step)
        board.flush()

    def log_metrics(self, run_id: str, metrics: Mapping[str, float]) -> None:
        """Metrics of the run as a whole."""
        self.log_steps(run_id, [{"step": 0, **metrics}])

    def log_table(self, run_id: str, file: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """A table of the run, which replaces an earlier one of that name."""
        # As MLflow's page shows a table; its own `log_table` adds to one that is there, and needs pandas.
        columns = list(dict.fromkeys(name for row in rows for name in row))
        data = [[row.get(name) for name in columns] for row in rows]
        self._client.log_dict(self._id(run_id), {"columns": columns, "data": data}, file)
        tag = json.dumps([{"path": file, "type": "json"}])
        self.set_tags(run_id, {"mlflow.loggedArtifacts": tag})

    def log_figure(self, run_id: str, file: str, figure: "Figure") -> None:
        """A picture of the run, which replaces an earlier one of that name."""
        self._client.log_figure(self._id(run_id), figure, file)

    def log_text(self, run_id: str, file: str, text: str) -> None:
        self._client.log_text(self._id(run_id), text, file)

    def id_of(self, run_id: str) -> str | None:
        """MLflow's own id of a run; None for one that is not tracked."""
        return self._find(run_id)

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self._client.log_batch(self._id(run_id), tags=[RunTag(k, v) for k, v in tags.items()])

    def last_step(self, run_id: str) -> int:
        """The highest step that was logged; 0 if none."""
        history = self._client.get_metric_history(self._id(run_id), "loss")
        return max((metric.step for metric in history), default=0)

    def finish(self, run_id: str, *, failed: bool = False) -> None:
        if (board := self._open_boards.pop(run_id, None)) is not None:
            board.close()
        self._client.set_terminated(self._id(run_id), status="FAILED" if failed else "FINISHED")

    def _board(self, run_id: str) -> "SummaryWriter":
        from tensorboardX import SummaryWriter  # on use: a driver that tracks nothing needs it not

        if run_id not in self._open_boards:
            # A file of its own for each writer: the name holds the second alone, and another would overwrite it.
            self._open_boards[run_id] = SummaryWriter(
                str(self._boards / run_id), filename_suffix=f".{secrets.token_hex(4)}"
            )
        return self._open_boards[run_id]

    def _find_experiment(self, name: str, artifacts: Path | None) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        # As a URI: MLflow would take `%` and `#` in a path for parts of one.
        location = None if artifacts is None else artifacts.absolute().as_uri()
        try:
            return str(self._client.create_experiment(name, artifact_location=location))
        except MlflowException:
            # Another process made it in between; any other fault shows here.
            if (found := self._client.get_experiment_by_name(name)) is None:
                raise
            return str(found.experiment_id)

    def _find(self, run_id: str) -> str | None:
        if run_id not in self._ids:
            query = f"tags.`{RUN_TAG}` = '{run_id}'"
            found = self._client.search_runs(
                [self._experiment_id], filter_string=query, max_results=1
            )
            if not found:
                return None
            self._ids[run_id] = found[0].info.run_id
        return self._ids[run_id]

    def _id(self, run_id: str) -> str:
        found = self._find(run_id)
        if found is None:
            raise KeyError(f"run {run_id} is not tracked; `start` comes first")
        return found

    def _create(self, run_id: str, tags: Mapping[str, str], name: str) -> str:
        run = self._client.create_run(self._experiment_id, tags=dict(tags), run_name=name)
        self._ids[run_id] = str(run.info.run_id)
        return self._ids[run_id]

    def _log_params(self, mlflow_id: str, config: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        # Cut because the database refuses longer ones; the whole config is an artifact.
        params = [Param(key, str(value)[:_PARAM_LENGTH]) for key, value in flatten(config)]
        for start in range(0, len(params), _PARAM_BATCH):
            self._client.log_batch(mlflow_id, params=params[start : start + _PARAM_BATCH])


def open_tracker(settings: Settings, experiment: str) -> Tracker:
    """The tracker of the settings. Any number of processes may open an empty database at once."""
    uri = settings.tracking_uri
    remote = uri.startswith(("http://", "https://", "databricks"))
    artifacts = None if remote else _folder(settings, experiment)
    boards = settings.storage.root / "tensorboard"
    return Tracker(uri, experiment=experiment, artifacts=artifacts, boards=boards)


def _folder(settings: Settings, experiment: str) -> Path:
    """The folder of an experiment's files; its name may hold any character, `/` among them."""
    name = quote(experiment, safe=" ")
    if name.startswith("."):
        name = f"%2E{name[1:]}"
    return settings.storage.root / "mlflow" / name


def is_server_fault(error: BaseException) -> bool:
    """Whether an error of MLflow's says that the server could not be reached or failed, rather than refused."""
    from mlflow.exceptions import MlflowException

    return isinstance(error, MlflowException) and error.get_http_status_code() >= _SERVER_FAULT


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of each leaf of a config tree; lists are leaves."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _client(uri: str) -> "MlflowClient":
    from mlflow.tracking import (
        MlflowClient,
    )  # on use: two seconds that a laptop client need not pay

    for name in ("mlflow.store.db.utils", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with creation_turn(uri):
        return MlflowClient(uri)
