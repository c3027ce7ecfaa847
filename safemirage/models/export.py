"""Writes a trained model as an export: safetensors in the public layout, processor, manifest.

A full model is a folder that transformers and vLLM both load. A LoRA run's export is a PEFT adapter folder;
`merge_export` writes the merged model into its sub-folder `merged`, an export of its own, for engines that
cannot take the adapter (vLLM, because of the trained projector).
"""

import copy
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from huggingface_hub import split_torch_state_dict_into_shards
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor

from safemirage.config.loading.identity import MERGED_NAME
from safemirage.files import whole_folder
from safemirage.models.families import Family
from safemirage.models.loading import DtypeName, load_for_inference
from safemirage.models.manifest import (
    MANIFEST_NAME,
    BaseModel,
    ExportError,
    Manifest,
    file_digests,
    is_adapter,
    package_versions,
    processor_digest,
    read_manifest,
    verify_export,
    weights_digest,
)
from safemirage.models.processor import write_processor

__all__ = [
    "BaseModel",
    "ExportError",
    "ExportRecord",
    "Manifest",
    "export_folder",
    "merge_export",
    "read_manifest",
    "verify_export",
    "write_export",
    "write_index",
    "write_processor",
]

_SHARD_SIZE = "5GB"


@dataclass(frozen=True, kw_only=True)
class ExportRecord:
    """What a run says of the model that it exports."""

    run_id: str
    identity: str
    method: str
    base: BaseModel | None
    """The model that the run started from: None for one that was trained from nothing; an adapter needs one."""
    config: dict[str, Any]
    metrics: dict[str, float]
    git_commit: str | None
    notes: Mapping[str, bytes] = field(default_factory=dict)
    """Files that describe the run, by their names inside the export: its card."""


def write_export(
    folder: Path,
    *,
    model: Any,
    processor: Any,
    state_dict: dict[str, Tensor] | None,
    family: Family,
    record: ExportRecord,
) -> Manifest:
    """Write `folder` in one step: it is there whole or not at all, and replaces one that was there.

    Args:
        model: a transformers model, or a PeftModel, of which the adapter is written.
        state_dict: the consolidated weights under the model's own names; None: the model's.

    Raises:
        ExportError: weights are missing from `state_dict`, or an adapter's record names no base.
    """
    with export_folder(folder, family=family, record=record) as scratch:
        if isinstance(model, PeftModel):
            _write_adapter(scratch, model, state_dict, record)
        else:
            _write_full(scratch, model, state_dict, family)
        write_processor(scratch, processor)
    return read_manifest(folder)


@contextmanager
def export_folder(folder: Path, *, family: Family, record: ExportRecord) -> Iterator[Path]:
    """A folder to fill; when the block ends well it gets its manifest and takes the place of `folder`."""
    folder = Path(folder)
    record = _with_absolute_base(record)
    with whole_folder(folder, replace=True) as scratch:
        yield scratch
        for name, content in record.notes.items():
            (scratch / name).parent.mkdir(exist_ok=True)
            (scratch / name).write_bytes(content)
        # Last, because it lists the digest of every other file.
        manifest = _manifest(scratch, family, record)
        text = json.dumps(asdict(manifest), indent=2, sort_keys=True)
        (scratch / MANIFEST_NAME).write_text(text + "\n")


def merge_export(folder: Path, *, dtype: DtypeName = "float32") -> Path:
    """The merged model of an adapter's export, written into its sub-folder `merged` unless it is there.

    It is merged, and stored, in `dtype`.

    Raises:
        ExportError: the export is no adapter, or not what its manifest says.
    """
    folder = Path(folder)
    if not is_adapter(folder):
        raise ExportError(f"{folder}: no adapter, so there is nothing to merge")
    manifest = verify_export(folder)
    target = folder / MERGED_NAME
    # Whole or not there, since it is written as an export is.
    if target.is_dir():
        return target
    loaded = load_for_inference(folder, dtype=dtype)
    record = ExportRecord(
        run_id=manifest.run_id,
        identity=manifest.identity,
        method=manifest.method,
        base=manifest.base,
        config=manifest.config,
        metrics=manifest.metrics,
        git_commit=manifest.git_commit,
    )
    write_export(
        target,
        model=loaded.model,
        processor=loaded.processor,
        state_dict=None,
        family=loaded.family,
        record=record,
    )
    return target


def _write_full(
    folder: Path, model: Any, state_dict: dict[str, Tensor] | None, family: Family
) -> None:
    # From ZeRO-3 the weights come by themselves, and may lack some: they are compared with the model.
    names = set(model.state_dict())
    weights = model.state_dict() if state_dict is None else state_dict
    text_config = model.config.get_text_config()
    if model.config.tie_word_embeddings or text_config.tie_word_embeddings:
        # The output layer is the embedding; a second copy would part from it.
        names.discard(f"{family.head}.weight")
    missing, extra = sorted(names - weights.keys()), sorted(weights.keys() - names)
    extra = [name for name in extra if not name.startswith(f"{family.head}.")]
    if missing or extra:
        raise ExportError(
            f"the weights do not cover the model: {len(missing)} missing {missing[:3]}, "
            f"{len(extra)} unknown {extra[:3]}"
        )
    _save_shards(folder, {family.hub_name(name): weights[name] for name in sorted(names)})
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.get_text_config().use_cache = True  # off in training only
    config.save_pretrained(folder)
    if model.generation_config is not None:
        model.generation_config.save_pretrained(folder)


def _save_shards(folder: Path, weights: dict[str, Tensor]) -> None:
    # safetensors takes no views, and none that share memory.
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    split = split_torch_state_dict_into_shards(
        tensors,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=_SHARD_SIZE,
    )
    for filename, names in split.filename_to_tensors.items():
        save_file({name: tensors[name] for name in names}, folder / filename, {"format": "pt"})
    if split.is_sharded:
        write_index(folder, split.tensor_to_filename, split.metadata)


def write_index(
    folder: Path, weight_map: Mapping[str, str], metadata: Mapping[str, Any] | None = None
) -> None:
    """Which file holds which weight; readers of several safetensors files need it."""
    index = {"metadata": metadata or {}, "weight_map": dict(weight_map)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def _write_adapter(
    folder: Path, model: PeftModel, state_dict: dict[str, Tensor] | None, record: ExportRecord
) -> None:
    if record.base is None:
        raise ExportError("an adapter's record names no base model")
    expected = {
        name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    weights = dict(model.state_dict()) if state_dict is None else state_dict
    if missing := sorted(expected.keys() - weights.keys()):
        raise ExportError(f"the adapter's weights are not all there: {missing[:3]}")
    adapter = get_peft_model_state_dict(model, state_dict=weights)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in adapter.items()}
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    settings = copy.deepcopy(model.peft_config["default"])
    settings.inference_mode = True
    # PEFT wrote what the model was loaded from, which may be a scratch folder.
    settings.base_model_name_or_path = record.base.path
    settings.save_pretrained(folder)


def _manifest(folder: Path, family: Family, record: ExportRecord) -> Manifest:
    base_digest = record.base.weights_digest if record.base is not None else None
    return Manifest(
        **{name: value for name, value in vars(record).items() if name != "notes"},
        family=family.name,
        versions=package_versions(),
        weights_digest=weights_digest(folder, base_digest=base_digest),
        processor_digest=processor_digest(folder),
        files=file_digests(folder),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _with_absolute_base(record: ExportRecord) -> ExportRecord:
    """An adapter must find its base from any working directory."""
    if record.base is None or not Path(record.base.path).expanduser().is_dir():
        return record
    path = str(Path(record.base.path).expanduser().absolute())
    return replace(record, base=replace(record.base, path=path))
