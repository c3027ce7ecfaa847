"""Loads models: for training (full or LoRA) and for inference. Only safetensors are read, never pickles."""

import importlib.util
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import init_empty_weights
from huggingface_hub import snapshot_download
from peft import PeftModel
from safetensors import safe_open
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    GenerationConfig,
    PreTrainedModel,
)

from safemirage.config.loading.identity import is_local
from safemirage.config.loading.load import ConfigError
from safemirage.config.model import ModelConfig, Presets
from safemirage.config.weights import WeightsConfig
from safemirage.models.adapter import scale_adapter, with_adapters
from safemirage.models.families import Family, family_of
from safemirage.models.families.family import trainable_names
from safemirage.models.manifest import (
    MANIFEST_NAME,
    ExportError,
    is_adapter,
    read_manifest,
    same_processor,
    verify_export,
    weights_digest,
)
from safemirage.models.precision import quantise
from safemirage.models.processor import AS_SAVED, load_processor, presets_digest

_LOG = logging.getLogger(__name__)
_HUB_FILES = [
    "*.safetensors",
    "*.safetensors.index.json",
    "*.json",
    "*.jinja",
    "tokenizer.model",
    "merges.txt",
]
_AS_THEY_ARE = WeightsConfig()
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

DtypeName = Literal["float32", "bfloat16", "float16"]
Attention = Literal["eager", "sdpa", "flash_attention_2"]


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    model: Any
    """A transformers model, or a PeftModel around one."""
    processor: Any
    """The processor, with a chat template and PIL image preprocessing."""
    family: Family
    weights_digest: str
    """Digest of the weights as loaded; for training, those that the run starts from."""
    processor_digest: str
    attention: Attention
    changes: Mapping[str, str] = field(default_factory=dict)
    """What was done to the weights that the digest is of; nothing as a rule."""


@dataclass(frozen=True, kw_only=True)
class _Weights:
    model: PreTrainedModel
    digest: str


Take = Callable[[nn.Parameter, Callable[[], Tensor]], None]
"""Takes a parameter that has no memory yet, and what reads its value; called for one after the other."""


def load_for_training(config: ModelConfig, *, take: Take | None = None) -> LoadedModel:
    """The model in train mode on the CPU, with gradients required just where it is to be trained.

    Args:
        take: given, the model is never whole: it is made without memory, and each of its parameters is handed over.
            An adapter's export is merged first, and must be whole for it.

    Raises:
        ConfigError: nothing at `path`, or a `trainable` pattern that fits no parameter.
        ExportError: the folder is not what its manifest says.
    """
    if config.lora is not None and config.trainable:
        raise ConfigError(
            f"model.trainable: {config.trainable!r} beside model.lora; adapters decide what is trained, "
            "so drop one of the two"
        )
    attention = choose_attention(config.attention, config.dtype, on_cuda=torch.cuda.is_available())
    folder = resolve_model(config.path, config.revision)
    if take is None or is_adapter(folder):
        weights = _load_weights(folder, config.dtype, attention)
    else:
        weights = _load_in_parts(folder, config.dtype, attention, take)
    family = family_of(weights.model.config)
    # Keys and values are of no use in training, and would be kept for every layer.
    weights.model.config.get_text_config().use_cache = False
    model: Any = weights.model
    if config.lora is not None:
        model = with_adapters(weights.model, family, config.lora, base=config.path)
    else:
        _mark_trainable(weights.model, family, config.trainable)
    if config.gradient_checkpointing:
        # The non-reentrant kind works with frozen inputs, so under LoRA too.
        weights.model.gradient_checkpointing_enable({"use_reentrant": False})
    return LoadedModel(
        model=model.train(),
        processor=load_processor(folder, family, weights.model.config, presets=config.presets),
        family=family,
        weights_digest=weights.digest,
        processor_digest=presets_digest(folder, config.presets),
        attention=attention,
    )


def load_for_inference(
    path: Path | str,
    *,
    dtype: DtypeName = "float32",
    device: str = "cpu",
    presets: Presets = AS_SAVED,
    changes: WeightsConfig = _AS_THEY_ARE,
) -> LoadedModel:
    """The model in eval mode on `device`; an adapter is merged into its base, or left out at scale 0.

    Raises:
        ConfigError: nothing at `path`, presets that its family does not have, `changes` that the export or this
            machine does not take.
        ExportError: the folder, or an adapter's base, is not what its manifest says.
    """
    attention = choose_attention("auto", dtype, on_cuda=device.startswith("cuda"))
    folder = resolve_model(str(path))
    weights = _load_scaled(folder, dtype, attention, changes.adapter_scale)
    family = family_of(weights.model.config)
    # Nothing is trained, so no graph is kept.
    model = weights.model.eval().requires_grad_(False)
    done = {}
    if changes.adapter_scale not in (0.0, 1.0):
        done["adapter_scale"] = f"{changes.adapter_scale:g}"
    if changes.quantisation is not None:
        done["quantisation"] = quantise(model, family, changes.quantisation, device)
    # Weights and processor may come from different folders: see there.
    speaks = _processor_folder(folder, changes.adapter_scale)
    return LoadedModel(
        model=model.to(device),
        processor=load_processor(speaks, family, weights.model.config, presets=presets),
        family=family,
        weights_digest=weights.digest,
        processor_digest=presets_digest(speaks, presets),
        attention=attention,
        changes=done,
    )


def resolve_model(path: str, revision: str = "main") -> Path:
    """The folder of a model; a hub id is downloaded into the hub's cache, safetensors and texts only.

    Raises:
        ConfigError: a local path with nothing there.
    """
    local = Path(path).expanduser()
    # A folder of that name comes before a hub id that reads the same.
    if local.is_dir():
        return local.absolute()
    if is_local(path):
        raise ConfigError(
            f"model.path: {path!r} is no folder; name an export, a model folder or a hub id"
        )
    return Path(snapshot_download(path, revision=revision, allow_patterns=_HUB_FILES))


def choose_attention(
    wanted: Literal["auto", "eager", "sdpa", "flash_attention_2"],
    dtype: DtypeName,
    *,
    on_cuda: bool,
) -> Attention:
    """`auto`: flash attention where it is installed, on CUDA and in half precision; else PyTorch's own."""
    if wanted != "auto":
        return wanted
    fits = on_cuda and dtype != "float32" and importlib.util.find_spec("flash_attn") is not None
    chosen: Attention = "flash_attention_2" if fits else "sdpa"
    _LOG.info("attention: %s", chosen)
    return chosen


def _load_weights(folder: Path, dtype: DtypeName, attention: Attention) -> _Weights:
    manifest = verify_export(folder) if (folder / MANIFEST_NAME).is_file() else None
    if is_adapter(folder):
        return _load_merged(folder, _load_base(folder, dtype, attention))
    model = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=_DTYPES[dtype], attn_implementation=attention, use_safetensors=True
    )
    # Verified above, so the weights need not be read for their digests again.
    known = manifest.files if manifest is not None else None
    return _Weights(model=model, digest=weights_digest(folder, known=known))


def _load_in_parts(folder: Path, dtype: DtypeName, attention: Attention, take: Take) -> _Weights:
    """The weights of a folder, one parameter in memory at a time.

    transformers can do so as well (HfDeepSpeedConfig), but then each worker of a node holds a whole copy of the files.
    """
    manifest = verify_export(folder) if (folder / MANIFEST_NAME).is_file() else None
    # Buffers are computed from the config, not loaded: they are made with their values. What is drawn for weights that
    # have no memory must not change what is drawn for new adapters.
    with torch.random.fork_rng(devices=[]), init_empty_weights(include_buffers=False):
        model = AutoModelForImageTextToText.from_config(
            AutoConfig.from_pretrained(folder), dtype=_DTYPES[dtype], attn_implementation=attention
        )
    model.tie_weights()
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    family = family_of(model.config)
    files = _files_of_tensors(folder)
    for name, parameter in model.named_parameters():
        key = next((key for key in family.stored_names(name) if key in files), None)
        if key is None:
            raise ExportError(f"{folder}: holds no weight {name!r}")
        take(parameter, partial(_read_tensor, files[key], key, parameter.dtype))
    known = manifest.files if manifest is not None else None
    return _Weights(model=model, digest=weights_digest(folder, known=known))


def _files_of_tensors(folder: Path) -> dict[str, Path]:
    """The file of each stored tensor, by the name that it has there."""
    found: dict[str, Path] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            found |= dict.fromkeys(tensors.keys(), file)
    return found


def _read_tensor(file: Path, key: str, dtype: torch.dtype) -> Tensor:
    with safe_open(file, framework="pt") as tensors:
        tensor: Tensor = tensors.get_tensor(key)
    return tensor.to(dtype)


def _load_scaled(
    folder: Path, dtype: DtypeName, attention: Attention, adapter_scale: float
) -> _Weights:
    """The weights with an adapter at part of its strength; at 0 they are its base, digest and all.

    Raises:
        ConfigError: a scale for an export that has no adapter.
    """
    if adapter_scale == 1:
        return _load_weights(folder, dtype, attention)
    if not is_adapter(folder):
        raise ConfigError(
            f"model.weights.adapter_scale: {adapter_scale!r}, but {folder} has no adapter to scale; leave it out, or "
            "name the export of a run with model.lora"
        )
    verify_export(folder)
    base = _load_base(folder, dtype, attention)
    if adapter_scale == 0:
        return base
    return _load_merged(folder, base, adapter_scale)


def _load_base(folder: Path, dtype: DtypeName, attention: Attention) -> _Weights:
    """The weights that an adapter was trained on."""
    base = read_manifest(folder).base
    if base is None:
        raise ExportError(f"{folder}: an adapter whose manifest names no base model")
    weights = _load_weights(resolve_model(base.path, base.revision), dtype, attention)
    # An adapter on other weights loads without a complaint and answers wrongly.
    if weights.digest != base.weights_digest:
        raise ExportError(
            f"{folder}: its base {base.path!r} has weights {weights.digest[:12]}, but the adapter was trained on "
            f"{base.weights_digest[:12]}; put the original base back"
        )
    return weights


def _load_merged(folder: Path, base: _Weights, adapter_scale: float = 1.0) -> _Weights:
    model = PeftModel.from_pretrained(base.model, str(folder))
    if adapter_scale != 1:
        scale_adapter(model, adapter_scale)
    return _Weights(
        model=model.merge_and_unload(), digest=weights_digest(folder, base_digest=base.digest)
    )


def _processor_folder(folder: Path, adapter_scale: float) -> Path:
    """The folder whose processor renders prompts. With its adapter off a model is its base, and where the two have
    one processor the base's files are taken, so that answers which the base gave before serve."""
    if adapter_scale != 0:
        return folder
    base = read_manifest(folder).base
    assert base is not None, "its weights were loaded"
    there = resolve_model(base.path, base.revision)
    return there if same_processor(folder, there) else folder


def _mark_trainable(model: nn.Module, family: Family, patterns: tuple[str, ...]) -> None:
    names = [name for name, _ in model.named_parameters()]
    chosen = trainable_names(names, family, patterns)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen)
