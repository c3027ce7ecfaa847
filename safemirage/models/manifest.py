"""The manifest of an export: where a model comes from, and the digest of each of its files. Without torch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from safemirage.config.loading.identity import MERGED_NAME, digest_of, file_digest
from safemirage.config.types import Strict
from safemirage.versions import installed_version

MANIFEST_NAME = "manifest.json"
ADAPTER_CONFIG_NAME = "adapter_config.json"

_RECORDED_PACKAGES = ("safemirage", "torch", "transformers", "peft", "deepspeed", "ray")
_PROCESSOR_FILES = frozenset(
    {
        "added_tokens.json",
        "chat_template.jinja",
        "chat_template.json",
        "generation_config.json",
        "merges.txt",
        "preprocessor_config.json",
        "processor_config.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "vocab.json",
    }
)
# These say where an adapter's base lay and which version wrote it, not what it answers.
_PLACE_KEYS = frozenset({"base_model_name_or_path", "revision", "peft_version", "inference_mode"})


class ExportError(ValueError):
    """An export that is not what its manifest says, or that has none; names each file at fault."""


@dataclass(frozen=True, kw_only=True)
class BaseModel(Strict):
    """The weights that a run started from."""

    path: str
    """The model as configured: an export's folder, a folder in the hub's layout, or a hub id."""
    revision: str = "main"
    weights_digest: str


@dataclass(frozen=True, kw_only=True)
class Manifest(Strict):
    run_id: str
    identity: str
    method: str
    base: BaseModel | None
    """The model that the run started from; None for one that was trained from nothing."""
    family: str
    config: dict[str, Any]
    """The resolved config of the run."""
    metrics: dict[str, float]
    versions: dict[str, str]
    git_commit: str | None
    weights_digest: str
    """Digest over config and weight files; for an adapter, over its base's too."""
    processor_digest: str
    """Digest over tokenizer, chat template, image preprocessing, and the tokens that end an answer."""
    files: dict[str, str]
    """SHA-256 of each file, in hex."""
    created_at: str
    """When the export was written, in UTC, ISO 8601."""


def read_manifest(folder: Path | str) -> Manifest:
    """The manifest of an export.

    Raises:
        ExportError: there is none, or it cannot be read.
    """
    path = Path(folder) / MANIFEST_NAME
    try:
        return TypeAdapter(Manifest).validate_json(path.read_bytes())
    except FileNotFoundError:
        raise ExportError(f"{folder}: no {MANIFEST_NAME}, so this is no export") from None
    except ValidationError as error:
        raise ExportError(f"{path}: {error}") from error


def verify_export(folder: Path | str) -> Manifest:
    """The manifest, after every file was found to be what it says.

    Raises:
        ExportError: a file is missing, changed or not listed.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    present = {name: folder / name for name in export_files(folder)}
    problems = [f"{name} is missing" for name in sorted(manifest.files.keys() - present.keys())]
    problems += [f"{name} is not listed" for name in sorted(present.keys() - manifest.files.keys())]
    problems += [
        f"{name} was changed"
        for name in sorted(manifest.files.keys() & present.keys())
        if file_digest(present[name]) != manifest.files[name]
    ]
    if problems:
        raise ExportError(f"{folder} is not what its manifest says: {'; '.join(problems)}")
    return manifest


def export_files(folder: Path) -> list[str]:
    """Relative names of an export's own files: neither its manifest nor the merged export inside it."""
    names = (item.relative_to(folder) for item in folder.rglob("*") if item.is_file())
    return sorted(
        name.as_posix()
        for name in names
        if name.as_posix() != MANIFEST_NAME and name.parts[0] != MERGED_NAME
    )


def is_adapter(folder: Path) -> bool:
    return (folder / ADAPTER_CONFIG_NAME).is_file()


def file_digests(folder: Path) -> dict[str, str]:
    return {name: file_digest(folder / name) for name in export_files(folder)}


def weights_digest(
    folder: Path, *, base_digest: str | None = None, known: Mapping[str, str] | None = None
) -> str:
    """SHA-256 in hex over what decides a model's outputs: its config and weights, and its base's if an adapter.

    Args:
        known: file digests that need no second reading, as a verified manifest has them.

    Raises:
        ExportError: the folder has no safetensors weights, or is an adapter and no base digest was given.
    """
    names = [name for name in export_files(folder) if name.endswith(".safetensors")]
    if not names:
        raise ExportError(f"{folder}: no *.safetensors file; other formats are not loaded")
    weights = {name: _digest(folder, name, known) for name in names}
    if not is_adapter(folder):
        return digest_of({"config": _digest(folder, "config.json", known), "weights": weights})
    if base_digest is None:
        raise ExportError(f"{folder}: an adapter's digest needs its base's")
    adapter: dict[str, Any] = json.loads((folder / ADAPTER_CONFIG_NAME).read_text())
    settings = {key: value for key, value in adapter.items() if key not in _PLACE_KEYS}
    for key, value in settings.items():
        if isinstance(value, list):
            settings[key] = sorted(value, key=str)
    return digest_of({"base": base_digest, "adapter": settings, "weights": weights})


def same_processor(first: Path, second: Path) -> bool:
    """Whether two folders hold one tokenizer, chat template and image preprocessing, byte for byte.

    Left out is the generation config, which an adapter's export takes from its base.
    """
    one, other = (
        {
            name: file_digest(folder / name)
            for name in export_files(folder)
            if name in _PROCESSOR_FILES and name != "generation_config.json"
        }
        for folder in (first, second)
    )
    return one == other


def processor_digest(folder: Path) -> str:
    """SHA-256 in hex over the files of tokenizer, chat template, image preprocessing, and tokens that end an answer."""
    return digest_of(
        {
            name: file_digest(folder / name)
            for name in export_files(folder)
            if name in _PROCESSOR_FILES
        }
    )


def package_versions() -> dict[str, str]:
    """Versions of the packages that decide how a model was made; those not installed are left out."""
    found = {name: installed_version(name) for name in _RECORDED_PACKAGES}
    return {name: number for name, number in found.items() if number is not None}


def _digest(folder: Path, name: str, known: Mapping[str, str] | None) -> str:
    return known[name] if known is not None and name in known else file_digest(folder / name)
