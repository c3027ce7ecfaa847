"""A run's name becomes part of a folder's name, so it can be no path."""

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from safemirage.config.attack import AttackConfig
from safemirage.config.attack_search import AttackSearchConfig
from safemirage.config.evaluate import EvaluateConfig
from safemirage.config.loading.load import ConfigError, load_config
from safemirage.config.plan import load_search
from safemirage.config.train import TrainConfig

CONFIGS = Path(str(files("configs")))
LOADS: dict[str, Callable[[list[str]], Any]] = {
    "train": lambda given: load_config(TrainConfig, CONFIGS / "train/miniature_npo.yaml", given),
    "search": lambda given: load_search(CONFIGS / "search/miniature_npo.yaml", given),
    "evaluate": lambda given: load_config(EvaluateConfig, CONFIGS / "evaluate/url.yaml", given),
    "attack": lambda given: load_config(AttackConfig, CONFIGS / "attack/vlguard.yaml", given),
    "attack_search": lambda given: load_config(
        AttackSearchConfig, CONFIGS / "attack_search/vlguard.yaml", given
    ),
}


@pytest.mark.parametrize("load", LOADS.values(), ids=LOADS)
@pytest.mark.parametrize("name", ["../../esc", "/tmp/esc", "a/b", "..", ".hidden", "", "it's", "x" * 161])  # fmt: skip
def test_name_that_is_a_path_is_refused(load: Callable[[list[str]], Any], name: str) -> None:
    with pytest.raises(ConfigError, match=r"name: .* is not allowed: folders are named by it"):
        load([f'name="{name}"'])


@pytest.mark.parametrize("load", LOADS.values(), ids=LOADS)
@pytest.mark.parametrize("name", ["npo", "llava_v1.5-7b", "größe+2", "安全"])
def test_name_of_letters_digits_and_signs_is_taken(
    load: Callable[[list[str]], Any], name: str
) -> None:
    assert load([f"name={name}"])
