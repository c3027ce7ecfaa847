"""`safemirage list`: what is stored, and which run files are shipped."""

import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from safemirage.cli.output import JsonOption, tables, write_json

if TYPE_CHECKING:
    from safemirage.settings import Settings
    from safemirage.store import Store
    from safemirage.store.runs import RunRecord

Kind = Literal["runs", "exports", "evaluations", "studies", "configs"]
_SENTENCE_END = re.compile(r"(?<=[.?])\s")
_STORED: tuple[Kind, ...] = ("runs", "exports", "evaluations", "studies")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A line of a listing."""

    name: str
    id: str
    """What other commands take it by."""
    what: str
    when: str
    """Last change, UTC."""
    state: str


def list_stored(
    kind: Annotated[
        Kind | None,
        typer.Argument(help="One kind; without it all four that are stored."),
    ] = None,
    json_path: JsonOption = None,
) -> None:
    """Show the runs, exports, evaluations and studies of the storage, or the run files that are shipped (configs)."""
    from safemirage.evaluation.reports.grid import Grid
    from safemirage.evaluation.reports.terminal import print_grid
    from safemirage.settings import read_settings
    from safemirage.store import open_store

    console = tables(json_path)
    if kind == "configs":
        files = _configs()
        write_json(json_path, {"configs": files})
        lines = [[one["name"], one["what"]] for one in files]
        print_grid(console, Grid(title="", header=["name", "what"], lines=lines))
        return
    settings = read_settings()
    with open_store(settings.store_url) as store:
        found = {
            one: list(_LISTINGS[one](store, settings))
            for one in ([kind] if kind is not None else _STORED)
        }
    write_json(json_path, {one: [asdict(entry) for entry in found[one]] for one in found})
    header = ["name", "id", "what", "when (UTC)", "state"]
    for one, entries in found.items():
        lines = [[entry.name, entry.id, entry.what, entry.when, entry.state] for entry in entries]
        if lines:
            print_grid(console, Grid(title=one, header=header, lines=lines))
        else:
            console.print(f"{one}: none in {settings.storage.root}", markup=False, soft_wrap=True)


def _runs(store: "Store", _: "Settings") -> Iterator[Entry]:
    """Every run but searches and their trials, which are studies."""
    for run in store.runs.list():
        if run.kind not in {"search", "trial"}:
            yield _run_entry(run, _what_of_run(run))


def _what_of_run(run: "RunRecord") -> str:
    from safemirage.config.loading.load import ConfigError
    from safemirage.config.train import TrainConfig
    from safemirage.runs import read_record

    if run.kind != "train":
        return run.kind
    try:
        config = read_record(TrainConfig, run.config, of=run.id)
    except ConfigError:
        return "train, recorded by another version"
    return f"train, {config.method.name} from {Path(config.model.path).name}"


def _studies(store: "Store", _: "Settings") -> Iterator[Entry]:
    from safemirage.config.loading.load import ConfigError
    from safemirage.runs import StudyConfig, read_record

    for run in store.runs.list(kind="search"):
        trials = store.runs.list(kind="trial", parent_id=run.id)
        finished = sum(trial.state == "finished" for trial in trials)
        try:
            search = read_record(StudyConfig, run.config, of=run.id).search
        except ConfigError:
            yield _run_entry(run, "recorded by another version")
            continue
        objectives = ", ".join(item.name for item in search.objectives)
        yield _run_entry(run, f"{finished} of {search.trials} trials finished; {objectives}")


def _run_entry(run: "RunRecord", what: str) -> Entry:
    return Entry(name=run.name, id=run.id, what=what, when=_minute(run.updated_at), state=run.state)


def _exports(_: "Store", settings: "Settings") -> Iterator[Entry]:
    """The storage's exports; one that is being written has no manifest yet."""
    from safemirage.models.manifest import MANIFEST_NAME, ExportError, read_manifest

    for path in sorted(settings.storage.exports.glob(f"*/{MANIFEST_NAME}")):
        folder = path.parent
        if folder.name.startswith("."):
            continue
        try:
            manifest = read_manifest(folder)
        except ExportError as error:
            yield Entry(name=folder.name, id=folder.name, what=str(error), when="", state="broken")
            continue
        base = manifest.base.path if manifest.base else "nothing"
        yield Entry(
            name=manifest.run_id,
            id=folder.name,
            what=f"{manifest.family}, {manifest.method} from {Path(base).name}",
            when=_minute(datetime.fromisoformat(manifest.created_at)),
            state="ready",
        )


def _evaluations(store: "Store", _: "Settings") -> Iterator[Entry]:
    for evaluation in store.evaluations.list():
        record = evaluation.readable
        what = "recorded by another version"
        if record is not None:
            judges = [judge.name for judge in record.judges]
            suite = record.suite or "single questions"
            counted = f"{evaluation.done} of {evaluation.total} answered"
            what = ", ".join([suite, counted, *judges])
        yield Entry(
            name=evaluation.id if record is None else record.name,
            id=evaluation.id,
            what=what,
            when=_minute(evaluation.updated_at),
            state=evaluation.state,
        )


_LISTINGS: dict[Kind, Callable[["Store", "Settings"], Iterator[Entry]]] = {
    "runs": _runs,
    "exports": _exports,
    "evaluations": _evaluations,
    "studies": _studies,
}


def _configs() -> list[dict[str, Any]]:
    """The shipped run files by the names that every command takes, each with the first sentence of its comment."""
    from safemirage.config.loading.load import SHIPPED, shipped_configs

    root = shipped_configs()
    found = []
    for path in sorted(root.rglob("*.yaml")):
        lines = takewhile(lambda line: line.startswith("#"), path.read_text("utf-8").splitlines())
        comment = " ".join(line.removeprefix("#").strip() for line in lines)
        name = f"{SHIPPED}{path.relative_to(root).as_posix()}"
        found.append({"name": name, "what": _SENTENCE_END.split(comment)[0]})
    return found


def _minute(when: datetime) -> str:
    return f"{when:%Y-%m-%d %H:%M}"
