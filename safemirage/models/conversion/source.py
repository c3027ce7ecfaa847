"""The tensors of a checkpoint under their new names, and the checks that none is lost, bent or changed."""

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from safemirage.config.loading.identity import digest_of, file_digest
from safemirage.models.conversion.layout import (
    ConversionError,
    is_computed,
    read_tensors,
    tensor_names,
)
from safemirage.models.export import BaseModel, ExportRecord
from safemirage.versions import current_commit

_SHOWN = 5


@dataclass(kw_only=True)
class ConversionReport:
    """What became of each key of a checkpoint."""

    target: Path
    vision_tower: str
    """The place that the vision tower's weights came from."""
    compared: int = 0
    """Source tensors that were read back from the target with the same type, shape and values."""
    texts: int = 0
    """Texts to which the target's tokenizer gives the ids that the original's gives."""
    computed: list[str] = field(default_factory=list)
    """Source tensors that are no weights: a model computes them."""
    filled_rows: dict[str, int] = field(default_factory=dict)
    """Rows of the vocabulary that the source does not have, by target key: each is the mean of the source's rows."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Some files, and the names that their tensors get."""

    files: Sequence[Path]
    rename: Callable[[str], str | None]
    """Gives a tensor's new name; None where it is no part of the model."""

    def tensors(self) -> Iterator[dict[str, tuple[str, Tensor]]]:
        """File by file, {new name: (old name, tensor)}; so only one file is in memory at a time."""
        for file in self.files:
            found = read_tensors(file)
            names = {old: self.rename(old) for old in found if not is_computed(old)}
            yield {new: (old, found[old]) for old, new in names.items() if new is not None}

    def names(self) -> set[str]:
        renamed = {
            self.rename(old)
            for file in self.files
            for old in tensor_names(file)
            if not is_computed(old)
        }
        return {name for name in renamed if name is not None}

    def computed(self) -> list[str]:
        """Old names of the tensors that are no weights."""
        return [name for file in self.files for name in tensor_names(file) if is_computed(name)]


def conversion_record(
    folder: Path, sources: Sequence[Source], *, base: BaseModel | None
) -> ExportRecord:
    """The identity of a converted model is the content of the files that it came from."""
    digests = {file.name: file_digest(file) for one in sources for file in one.files}
    identity = digest_of({"files": digests, "base": base.weights_digest if base else None})
    name = folder.absolute().name
    return ExportRecord(
        run_id=f"{name}-{identity[:12]}",
        identity=identity,
        method="converted",
        base=base,
        config={"converted_from": name, "files": digests},
        metrics={},
        git_commit=current_commit(),
    )


def require_all(found: Set[str], shapes: Mapping[str, torch.Size]) -> None:
    """Raises ConversionError where keys and the model's parts do not match one to one."""
    missing, extra = sorted(shapes.keys() - found), sorted(found - shapes.keys())
    if missing and not extra and all(name.startswith("vision_tower.") for name in missing):
        raise ConversionError(
            f"the checkpoint holds no vision tower ({len(missing)} keys, {missing[0]!r} first); give the folder of its "
            "CLIP weights as --vision-tower"
        )
    if missing or extra:
        raise ConversionError(
            f"{len(missing)} key(s) missing: {missing[:_SHOWN]}; "
            f"{len(extra)} key(s) without a place: {extra[:_SHOWN]}"
        )


def require_shape(key: str, found: torch.Size, expected: torch.Size) -> None:
    """Raises ConversionError where two shapes differ."""
    if found != expected:
        raise ConversionError(f"{key}: shape {tuple(found)}, but the config says {tuple(expected)}")


def check_back(folder: Path, sources: Sequence[Source], report: ConversionReport) -> None:
    """Reads every source tensor again and compares it with what `folder` holds.

    Raises:
        ConversionError: a value differs, or something was written that no source has.
    """
    written: dict[str, Path] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            written |= dict.fromkeys(tensors.keys(), file)
    for source in sources:
        for found in source.tensors():
            for key, (old, tensor) in found.items():
                with safe_open(written.pop(key), "pt") as tensors:
                    value = tensors.get_tensor(key)[: tensor.shape[0]]
                if value.dtype != tensor.dtype or not torch.equal(value, tensor):
                    raise ConversionError(f"{old!r} reads back with other values as {key!r}")
                report.compared += 1
    if written:
        raise ConversionError(f"keys without a source: {sorted(written)[:_SHOWN]}")
