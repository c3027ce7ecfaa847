"""What storage offers to callers: exports by their manifest, suites by their file."""

import json
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from safemirage.evaluation.suites.folder import SUITE_FILE
from safemirage.models.families import FAMILIES
from safemirage.models.manifest import MANIFEST_NAME, ExportError, read_manifest
from safemirage.storage import Storage
from serve_app.http.errors import ApiError, without_paths
from serve_app.resources import ModelCard, SuiteCard


def list_models(storage: Storage) -> list[ModelCard]:
    """Every export, by name. One that is being written has no manifest yet and is left out; a broken one says so."""
    return [_model_card(folder) for folder in _folders_with(storage.exports, MANIFEST_NAME)]


def find_model(storage: Storage, model_id: str) -> ModelCard:
    """The card of a model, which may be broken. Raises ApiError (404) that names what there is."""
    folders = {folder.name: folder for folder in _folders_with(storage.exports, MANIFEST_NAME)}
    if model_id not in folders:
        raise not_found("model", model_id, folders, code="model_not_found")
    return _model_card(folders[model_id])


def list_suites(storage: Storage) -> list[SuiteCard]:
    return [_suite_card(folder) for folder in _folders_with(storage.suites, SUITE_FILE)]


def find_suite(storage: Storage, name: str) -> Path:
    """The folder of a suite. Raises ApiError (404) that names what there is, or what is wrong with it."""
    folders = {folder.name: folder for folder in _folders_with(storage.suites, SUITE_FILE)}
    if name not in folders:
        raise not_found("suite", name, folders)
    card = _suite_card(folders[name])
    if card.problem is not None:
        raise broken("suite", name, card.problem)
    return folders[name]


def broken(kind: str, name: str, problem: str) -> ApiError:
    """What is refused until somebody mends it: asking again does not help."""
    message = f"{kind} {name!r} is broken: {without_paths(problem)}"
    return ApiError(404, message, param=kind, code=f"{kind}_broken")


def not_found(kind: str, name: str, known: Iterable[str], *, code: str | None = None) -> ApiError:
    listed = ", ".join(sorted(known)) or "none yet"
    return ApiError(404, f"{kind} {name!r} is not here; there is: {listed}", param=kind, code=code)


def _folders_with(root: Path, file: str) -> list[Path]:
    """Folders that hold the file; those that start with a dot are being written."""
    found = (path.parent for path in root.glob(f"*/{file}"))
    return sorted(folder for folder in found if not folder.name.startswith("."))


def _model_card(folder: Path) -> ModelCard:
    try:
        manifest = read_manifest(folder)
        missing = [name for name in sorted(manifest.files) if not (folder / name).is_file()]
        if missing:
            raise ExportError(f"missing: {', '.join(missing)}")
        if manifest.family not in (known := sorted(family.name for family in FAMILIES.values())):
            raise ExportError(f"family {manifest.family!r} is not known; known: {', '.join(known)}")
        return ModelCard(
            id=folder.name,
            created=int(datetime.fromisoformat(manifest.created_at).timestamp()),
            base=manifest.base.path if manifest.base else None,
            method=manifest.method,
            identity=manifest.identity,
            weights_digest=manifest.weights_digest,
            processor_digest=manifest.processor_digest,
        )
    except (OSError, ValueError) as error:  # an ExportError is one, and so is a date that is none
        return ModelCard(
            id=folder.name,
            created=int(folder.stat().st_mtime),
            state="broken",
            problem=without_paths(str(error)),
        )


def _suite_card(folder: Path) -> SuiteCard:
    try:
        samples = json.loads((folder / SUITE_FILE).read_text(encoding="utf-8"))["samples"]
        return SuiteCard(
            name=folder.name,
            conditions=dict(Counter(str(sample["condition"]) for sample in samples)),
            questions=len({str(sample["group_id"]) for sample in samples}),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        return SuiteCard(name=folder.name, state="broken", problem=_suite_problem(error))


def _suite_problem(error: Exception) -> str:
    match error:
        case OSError():
            return f"{SUITE_FILE} cannot be read: {error.strerror}"
        case ValueError():
            return f"{SUITE_FILE} is not UTF-8 JSON: {error}"
        case KeyError():
            return f"{SUITE_FILE}: {error} is missing"
        case _:
            return f"{SUITE_FILE}: needs a mapping with a list `samples` of mappings"
