"""What storage offers to callers: exports by their manifest, suites by their file."""

import json
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from safemirage.models.manifest import MANIFEST_NAME, read_manifest
from safemirage.storage import Storage
from serve_app.backend import ModelCard, SuiteCard
from serve_app.errors import ApiError

SUITE = "suite.json"


def list_models(storage: Storage) -> list[ModelCard]:
    """Every finished export, by name. One that is being written has no manifest yet and is left out."""
    return [_model_card(folder) for folder in _folders_with(storage.exports, MANIFEST_NAME)]


def find_model(storage: Storage, model_id: str) -> ModelCard:
    """Raises ApiError (404) that names what there is."""
    for folder in _folders_with(storage.exports, MANIFEST_NAME):
        if folder.name == model_id:
            return _model_card(folder)
    known = [folder.name for folder in _folders_with(storage.exports, MANIFEST_NAME)]
    raise not_found("model", model_id, known, code="model_not_found")


def list_suites(storage: Storage) -> list[SuiteCard]:
    return [_suite_card(folder) for folder in _folders_with(storage.suites, SUITE)]


def find_suite(storage: Storage, name: str) -> Path:
    """The folder of a suite. Raises ApiError (404) that names what there is."""
    folders = {folder.name: folder for folder in _folders_with(storage.suites, SUITE)}
    if name not in folders:
        raise not_found("suite", name, folders)
    return folders[name]


def not_found(kind: str, name: str, known: Iterable[str], *, code: str | None = None) -> ApiError:
    listed = ", ".join(sorted(known)) or "none yet"
    return ApiError(404, f"{kind} {name!r} is not here; there is: {listed}", param=kind, code=code)


def _folders_with(root: Path, file: str) -> list[Path]:
    """Folders that hold the file; those that start with a dot are being written."""
    found = (path.parent for path in root.glob(f"*/{file}"))
    return sorted(folder for folder in found if not folder.name.startswith("."))


def _model_card(folder: Path) -> ModelCard:
    manifest = read_manifest(folder)
    return ModelCard(
        id=folder.name,
        created=int(datetime.fromisoformat(manifest.created_at).timestamp()),
        base=manifest.base.path if manifest.base else None,
        method=manifest.method,
        identity=manifest.identity,
        weights_digest=manifest.weights_digest,
        processor_digest=manifest.processor_digest,
    )


def _suite_card(folder: Path) -> SuiteCard:
    cases = json.loads((folder / SUITE).read_text(encoding="utf-8"))["cases"]
    return SuiteCard(
        name=folder.name,
        cases=dict(Counter(str(case["case"]) for case in cases)),
        questions=len({case["group_id"] for case in cases}),
    )
