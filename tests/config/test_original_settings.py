"""The original's settings: the values of its scripts in configs/train/, and the table in docs/reference/original_options.md."""

import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest

from safemirage.config.loading.load import load_config
from safemirage.config.method import NPOConfig, RMUConfig
from safemirage.config.train import DeepSpeedEngineConfig, TrainConfig

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "reference" / "original_options.md"
SIZES = ("7b", "13b")
KINDS = ("npo_full", "npo_full_1_epoch", "npo_lora", "rmu_full", "rmu_lora")

OPTIONS = [
    "model_name_or_path",
    "version",
    "freeze_backbone",
    "tune_mm_mlp_adapter",
    "vision_tower",
    "mm_vision_select_layer",
    "pretrain_mm_mlp_adapter",
    "mm_projector_type",
    "mm_use_im_start_end",
    "mm_use_im_patch_token",
    "mm_patch_merge_type",
    "mm_vision_select_feature",
    "data_path",
    "retain_data_path",
    "forget_data_path",
    "lazy_preprocess",
    "is_multimodal",
    "image_folder",
    "image_aspect_ratio",
    "cache_dir",
    "optim",
    "remove_unused_columns",
    "freeze_mm_mlp_adapter",
    "mpt_attn_impl",
    "model_max_length",
    "double_quant",
    "quant_type",
    "bits",
    "lora_enable",
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "lora_weight_path",
    "lora_bias",
    "mm_projector_lr",
    "group_by_modality_length",
    "unlearn_type",
    "rmu_layer_id",
    "rmu_layer_ids",
    "rmu_param_ids",
    "rmu_steering_coeffs",
    "rmu_retain_alpha",
    "rmu_llava_loss_weight",
    "npo_llava_loss_weight",
    "npo_beta",
    "npo_retain_alpha",
    "npo_forget_alpha",
    "verbose",
    "loss_dir",
]
"""Every option that the original adds to those of the trainer it builds on, and those that it gives a default of its own."""


def load(size: str, kind: str) -> TrainConfig:
    return load_config(TrainConfig, ROOT / "configs" / "train" / f"llava_v1.5_{size}_{kind}.yaml")


def branches(hint: Any) -> list[Any]:
    """The dataclasses that a type may be."""
    if get_origin(hint) is Annotated:
        return branches(get_args(hint)[0])
    members = get_args(hint)
    return (
        [hint] if is_dataclass(hint) else [item for member in members for item in branches(member)]
    )


def exists(path: str) -> bool:
    owners: list[Any] = [TrainConfig]
    for name in path.split("."):
        hints = [
            get_type_hints(owner, include_extras=True)[name]
            for owner in owners
            if name in {item.name for item in fields(owner)}
        ]
        if not hints:
            return False
        owners = [item for hint in hints for item in branches(hint)]
    return True


def rows() -> list[tuple[str, str, str]]:
    """(original, here, whole line) of each table row that maps an option."""
    found = []
    for line in DOCS.read_text().splitlines():
        cells = [cell.strip() for cell in line.removeprefix("|").removesuffix("|").split(" | ")]
        if line.startswith(("| `", "| (")) and len(cells) == 4 and ".yaml" not in cells[0]:
            found.append((cells[0], cells[2], line))
    return found


def test_docs_map_every_original_option() -> None:
    named = {original.strip("`") for original, _, _ in rows()}
    assert set(OPTIONS) - named == set()


def test_docs_name_only_paths_that_exist() -> None:
    text = DOCS.read_text()
    tops = "|".join(item.name for item in fields(TrainConfig))
    paths = set(re.findall(rf"`((?:{tops})(?:\.[a-z_]+)+)`", text))
    paths |= {item.partition("=")[0] for item in re.findall(r"\b[a-z_]+(?:\.[a-z_]+)+=\S+", text)}
    assert len(paths) > 30
    assert [path for path in sorted(paths) if not exists(path)] == []


def test_docs_rows_say_where_or_that_it_is_not_there() -> None:
    assert len(rows()) >= len(OPTIONS)
    for original, here, line in rows():
        path = here.strip("`")
        assert here in {"not there", "not there yet"} or (here != path and exists(path)), (
            original,
            line,
        )


@pytest.mark.parametrize("path", ["model.lora.rank", "method.hook_layer", "engine.stage", "seed"])
def test_exists_finds_paths_in_every_branch(path: str) -> None:
    assert exists(path)
    assert not exists(f"{path}_x")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_settings_common_values_are_the_scripts(size: str, kind: str) -> None:
    config = load(size, kind)
    assert config.name == f"llava_v1.5_{size}_{kind}"
    assert config.model.path == f"llava-hf/llava-1.5-{size}-hf"
    assert config.model.dtype == "bfloat16"
    assert config.model.max_length == 2048
    assert config.model.gradient_checkpointing
    assert config.engine == DeepSpeedEngineConfig(stage=3)
    assert (config.workers.count, config.workers.gpu) == (8, True)
    assert (config.optim.schedule, config.optim.warmup_ratio) == ("cosine", 0.03)
    assert (config.optim.weight_decay, config.optim.accumulation) == (0.0, 1)
    assert config.data.retain_limit == 2000
    assert config.data.group_by_length
    assert (config.model.template, config.model.image_preprocessing) == ("vicuna_v1", "pad")
    assert config.optim.batch_size % config.workers.count == 0


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_d13_settings_write_checkpoints_before_the_end(size: str, kind: str) -> None:
    """The original's scripts save every 50,000 steps of runs of 250 to 2,500."""
    from safemirage.training.schedule import total_steps

    config = load(size, kind)
    assert config.data.retain_limit is not None
    steps = total_steps(config.optim, num_retain=config.data.retain_limit)
    assert steps / config.checkpoint.every_steps > 2


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("kind", "learning_rate", "epochs", "per_device", "beta"),
    [
        ("npo_full", 1e-6, 10, 1, 0.1),
        ("npo_full_1_epoch", 5e-7, 1, 1, 0.9),
        ("npo_lora", 1.1e-5, 10, 8, 0.7),
    ],
)
def test_settings_of_npo_are_the_scripts(
    size: str, kind: str, learning_rate: float, epochs: int, per_device: int, beta: float
) -> None:
    config = load(size, kind)
    # The one-epoch script alone sets npo_retain_alpha, to 1.0.
    term = "original" if kind == "npo_full_1_epoch" else "none"
    assert config.method == NPOConfig(
        beta=beta, reduction="mean", group_size=per_device, retain_term=term, retain_term_weight=1.0
    )
    assert (config.optim.learning_rate, config.optim.epochs) == (learning_rate, epochs)
    assert config.optim.batch_size == per_device * config.workers.count
    assert config.model.trainable == ()


@pytest.mark.parametrize("size", SIZES)
def test_settings_of_rmu_are_the_scripts(size: str) -> None:
    full, lora = load(size, "rmu_full"), load(size, "rmu_lora")
    assert full.method == RMUConfig(
        hook_layer=7, steering_coefficient=10, alpha=1.0, retain_weight=1.0
    )
    assert lora.method == RMUConfig(
        hook_layer=15, steering_coefficient=10, alpha=0.0, retain_weight=1.2
    )
    assert (full.optim.learning_rate, full.optim.epochs, full.optim.batch_size) == (1e-6, 10, 8)
    assert (lora.optim.learning_rate, lora.optim.epochs, lora.optim.batch_size) == (1.1e-5, 10, 64)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["npo_lora", "rmu_lora"])
def test_settings_of_lora_are_the_scripts(size: str, kind: str) -> None:
    config = load(size, kind)
    assert config.model.lora is not None
    assert (config.model.lora.rank, config.model.lora.alpha) == (128, 256)
    assert config.model.lora.train_projector
    assert config.optim.projector_learning_rate == 1.1e-5


def test_settings_of_full_rmu_train_three_down_projections_and_the_projector() -> None:
    from safemirage.models.families import LLAVA
    from safemirage.models.families.family import trainable_names

    names = [
        f"model.language_model.layers.{layer}.mlp.{part}_proj.weight"
        for layer in range(32)
        for part in ("gate", "down")
    ]
    names += [
        "model.multi_modal_projector.linear_1.weight",
        "model.vision_tower.encoder.layers.5.mlp.fc1.weight",
    ]
    chosen = trainable_names(names, LLAVA, load("7b", "rmu_full").model.trainable)
    assert chosen == {
        *(f"model.language_model.layers.{layer}.mlp.down_proj.weight" for layer in (5, 6, 7)),
        "model.multi_modal_projector.linear_1.weight",
    }
