"""The identity of a run: the digest of everything that can change its result.

Fields marked `not_identity` are left out; a field marked `input_path` counts by the content it names, so an
edited data file is another run and a moved one is the same.
"""

import hashlib
import json
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from safemirage.config.loading.load import ConfigError

_CHUNK_BYTES = 1 << 20
MERGED_NAME = "merged"
"""Sub-folder of an adapter's export that holds the merged model, an export of its own."""
_ABOUT = ("manifest.json", "README.md", "card")
"""Parts of an export that tell how, when and by which commit it was made, which changes nothing that it does."""


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def folder_digest(path: Path) -> str:
    """SHA-256 over the relative names and contents of a folder's files, in hex.

    An export's manifest and card are left out, and so is what an adapter was merged into beside itself.
    """
    left_out = {*_ABOUT, MERGED_NAME} if (path / "adapter_config.json").is_file() else {*_ABOUT}
    digest = hashlib.sha256()
    for file in sorted(item for item in path.rglob("*") if item.is_file()):
        name = file.relative_to(path)
        if name.parts[0] not in left_out:
            digest.update(f"{name.as_posix()}\0{file_digest(file)}\n".encode())
    return digest.hexdigest()


def input_digest(path: str, revision: str | None = None) -> str:
    """What stands for an input in an identity: the digest of a file or folder, or a hub id with its revision.

    Raises:
        ConfigError: nothing is there, and the path is no hub id or has no revision, as data has none.
    """
    local = Path(path).expanduser()
    if local.is_file():
        return f"sha256:{file_digest(local)}"
    if local.is_dir():
        return f"sha256:{folder_digest(local)}"
    if revision is None or is_local(path):
        raise ConfigError(f"{path}: no such file or folder")
    return f"hub:{path}@{revision}"


def is_local(path: str) -> bool:
    """Whether an input names a place on this machine rather than a hub id (`owner/name`)."""
    return (
        path.startswith((".", "/", "~"))
        or path.count("/") != 1
        or Path(path).suffix in {".json", ".jsonl"}
    )


def absolute_input(path: str) -> str:
    """An input that holds from any working directory; a hub id stays as it is, unless a folder of its name is here."""
    local = Path(path).expanduser()
    return str(local.absolute()) if is_local(path) or local.exists() else path


def identity_tree(config: Any) -> Any:
    """The part of a config that its identity is taken over, inputs replaced by their digests."""
    if is_dataclass(config) and not isinstance(config, type):
        result: dict[str, Any] = {}
        for item in fields(config):
            value = getattr(config, item.name)
            if item.metadata.get("identity") is False:
                continue
            kind = item.metadata.get("input")
            if kind and value is not None:
                revision = None if kind == "data" else getattr(config, "revision", "main")
                value = input_digest(value, revision)
            result[item.name] = identity_tree(value)
        return result
    if isinstance(config, dict):
        return {str(key): identity_tree(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [identity_tree(value) for value in config]
    return config


def canonical_json(tree: Any) -> str:
    return json.dumps(
        tree, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )


def digest_of(tree: Any) -> str:
    """SHA-256 of the canonical JSON of a plain tree, in hex."""
    return hashlib.sha256(canonical_json(tree).encode()).hexdigest()


def run_identity(config: Any) -> str:
    """SHA-256 in hex; equal for two configs exactly when their runs must give the same result."""
    return digest_of(identity_tree(config))
