"""The shape of a model that a config names, from the headers of its weight files: no torch, nothing loaded or downloaded.

A safetensors file begins with the name, type and shape of each tensor. The hub gives these few bytes without the rest.
"""

import json
import re
import struct
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from safemirage.config.loading.identity import is_local
from safemirage.config.loading.load import ConfigError
from safemirage.config.method import RMUConfig
from safemirage.config.model import LoraConfig
from safemirage.config.train import TrainConfig
from safemirage.models.families import Family, family_of
from safemirage.models.families.family import trainable_names
from safemirage.models.manifest import ExportError, is_adapter, read_manifest
from safemirage.training.estimate.memory import ModelShape

Shape = tuple[int, ...]
_FLOATS = ("F32", "F16", "BF16")
_WEIGHTS = "*.safetensors"


def read_shape(config: TrainConfig) -> ModelShape:
    """What the memory estimate needs to know.

    Raises:
        ConfigError: there are no weight files, or a `trainable` pattern fits no parameter.
        ExportError: an adapter whose manifest names no base.
        UnknownFamilyError: a model of no known family.
    """
    tree, stored = _headers(config.model.path, config.model.revision)
    family = family_of(SimpleNamespace(model_type=tree["model_type"]))
    shapes = {family.loaded_name(name): shape for name, shape in stored}
    numbers = {name: prod(shape) for name, shape in shapes.items()}
    if tree.get("tie_word_embeddings") or tree.get("text_config", {}).get("tie_word_embeddings"):
        numbers.pop(f"{family.head}.weight", None)  # the embedding, stored twice
    lora = config.model.lora
    if lora is not None:
        trained = {f"{family.layers}.0.adapter": _adapter_numbers(shapes, family, lora)}
        if lora.train_projector:
            saved = {n: k for n, k in numbers.items() if n.startswith(f"{family.projector}.")}
            trained |= {f"{name}.saved": number for name, number in saved.items()}
        parameters = sum(numbers.values()) + sum(trained.values())
    else:
        chosen = trainable_names(list(numbers), family, config.model.trainable)
        trained = {name: numbers[name] for name in chosen}
        parameters = sum(numbers.values())
    layers = 1 + max(layer for n in shapes if (layer := _layer_of(n, family)) is not None)
    block = {n.removeprefix(f"{family.layers}.0."): s for n, s in shapes.items()}
    vocabulary, hidden = shapes[f"{family.language}.embed_tokens.weight"]
    return ModelShape(
        parameters=parameters,
        trained=sum(trained.values()),
        copied=0 if lora is not None else _copied(config, family, trained),
        hidden=hidden,
        intermediate=block["mlp.down_proj.weight"][1],
        attention=sum(block[f"self_attn.{name}_proj.weight"][0] for name in "qkv"),
        vocabulary=vocabulary,
        num_layers=layers,
        first_layer=_first_layer(family, trained, layers),
        image_tokens=_image_tokens(tree, family, shapes),
    )


def _headers(path: str, revision: str) -> tuple[Mapping[str, Any], list[tuple[str, Shape]]]:
    """A model's config.json, and (name, shape) of each of its weights as its files call them."""
    from huggingface_hub import get_safetensors_metadata, hf_hub_download, try_to_load_from_cache

    folder = Path(path).expanduser()
    if not folder.is_dir() and not is_local(path):
        cached = try_to_load_from_cache(path, "config.json", revision=revision)
        folder = Path(cached).parent if isinstance(cached, str) else folder
    if folder.is_dir() and is_adapter(folder):
        base = read_manifest(folder).base
        if base is None:
            raise ExportError(f"{folder}: an adapter whose manifest names no base model")
        return _headers(base.path, base.revision)
    if any(folder.glob(_WEIGHTS)):
        tree = json.loads((folder / "config.json").read_text())
        return tree, [item for file in sorted(folder.glob(_WEIGHTS)) for item in _header(file)]
    if folder.is_dir() and is_local(path):
        raise ConfigError(
            f"model.path: {path!r} has no {_WEIGHTS}, whose headers say how large it is"
        )
    tree = json.loads(Path(hf_hub_download(path, "config.json", revision=revision)).read_text())
    files = get_safetensors_metadata(path, revision=revision).files_metadata.values()
    found = [
        (name, tuple(t.shape)) for f in files for name, t in f.tensors.items() if t.dtype in _FLOATS
    ]
    return tree, found


def _header(file: Path) -> Iterator[tuple[str, Shape]]:
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    for name, tensor in header.items():
        # Older files hold indices of positions too, which are no weights.
        if name != "__metadata__" and tensor["dtype"] in _FLOATS:
            yield name, tuple(tensor["shape"])


def _image_tokens(tree: Mapping[str, Any], family: Family, shapes: Mapping[str, Shape]) -> int:
    """Tokens of one image; 0 where their number depends on the image."""
    if not family.takes_square_images:
        return 0
    positions = next(s for n, s in shapes.items() if n.endswith("position_embedding.weight"))
    # CLIP has a position for its class token too, which is none of the image's tokens.
    return int(tree.get("image_seq_length") or positions[0] - 1)


def _adapter_numbers(shapes: Mapping[str, Shape], family: Family, lora: LoraConfig) -> int:
    """Numbers in the two factors of every linear layer of the language model."""
    linear = [s for n, s in shapes.items() if _layer_of(n, family) is not None and len(s) == 2]
    return sum(lora.rank * sum(shape) for shape in linear)


def _copied(config: TrainConfig, family: Family, trained: dict[str, int]) -> int:
    """The reference beside the policy: KL needs every trained tensor, RMU those before its hook layer's output."""
    if config.method.kl_weight > 0:
        return sum(trained.values())
    if not isinstance(config.method, RMUConfig):
        return 0
    hook = config.method.hook_layer
    return sum(
        number
        for name, number in trained.items()
        if ((layer := _layer_of(name, family)) is None and not _is_after(name, family))
        or (layer is not None and layer <= hook)
    )


def _is_after(name: str, family: Family) -> bool:
    """Whether a tensor outside the layers comes after them: the final norm and the output layer."""
    return name.startswith((f"{family.head}.", f"{family.language}.norm."))


def _first_layer(family: Family, trained: dict[str, int], num_layers: int) -> int:
    """The first decoder layer that a gradient reaches; `num_layers` where only what comes after them is trained."""
    before = [n for n in trained if _layer_of(n, family) is None and not _is_after(n, family)]
    if before:
        return 0
    layers = [layer for n in trained if (layer := _layer_of(n, family)) is not None]
    return min(layers, default=num_layers)


def _layer_of(name: str, family: Family) -> int | None:
    found = re.match(rf"{re.escape(family.layers)}\.(\d+)\.", name)
    return int(found.group(1)) if found else None
