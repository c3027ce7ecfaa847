from pathlib import Path

import pytest
import torch

from safemirage.config.loading.load import ConfigError
from safemirage.config.weights import BitsAndBytesConfig, RoundToNearestConfig, WeightsConfig
from safemirage.evaluation.generators.transformers import TransformersGenerator
from safemirage.models.loading import load_for_inference
from safemirage.models.precision import require_quantisation, round_to_nearest
from tests.tiny_families import TINY_MEMBERS, make_tiny_member


def test_rounding_of_a_hand_worked_channel() -> None:
    # q = 7: the first scale is 0.7 / 7, the second 7 / 7; halves go to even.
    weight = torch.tensor([[0.7, -0.34, 0.26, 0.0], [7.0, -2.5, 1.5, 0.4]])
    expected = torch.tensor([[0.7, -0.3, 0.3, 0.0], [7.0, -2.0, 2.0, 0.0]])
    torch.testing.assert_close(round_to_nearest(weight, bits=4), expected)
    by_two = torch.tensor([[0.7, -0.3, 0.26, 0.0], [7.0, -2.0, 1.5, 1.5 / 7 * 2]])
    torch.testing.assert_close(round_to_nearest(weight, bits=4, group_size=2), by_two)


@pytest.mark.parametrize(("bits", "group_size"), [(8, None), (4, None), (4, 16), (2, 8)])
def test_rounding_keeps_few_values_near_the_weights_and_rounds_once(
    bits: int, group_size: int | None
) -> None:
    weight = torch.randn(6, 32, generator=torch.Generator().manual_seed(0)).bfloat16().float()
    rounded = round_to_nearest(weight, bits=bits, group_size=group_size)
    groups = weight.reshape(6, -1, group_size or 32)
    step = groups.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1)
    error = (rounded.reshape(groups.shape) - groups).abs()
    assert (error <= step / 2 * 1.0001).all()
    assert max(len(group.unique()) for group in rounded.reshape(-1, group_size or 32)) < 2**bits
    torch.testing.assert_close(round_to_nearest(rounded, bits=bits, group_size=group_size), rounded)


def test_rounding_of_zeros_gives_zeros_in_the_weights_dtype() -> None:
    rounded = round_to_nearest(torch.zeros(2, 4, dtype=torch.bfloat16), bits=4)
    assert rounded.dtype == torch.bfloat16
    assert not rounded.any()


@pytest.mark.parametrize("family", TINY_MEMBERS)
def test_quantising_a_model_rounds_the_language_models_linear_layers_alone(
    family: str, tmp_path: Path
) -> None:
    folder = make_tiny_member(tmp_path, family)
    config = RoundToNearestConfig(bits=4, group_size=16)
    plain = load_for_inference(folder)
    rounded = load_for_inference(folder, changes=WeightsConfig(quantisation=config))
    language = f"{plain.family.language}."
    before, after = plain.model.state_dict(), rounded.model.state_dict()
    for name, weight in before.items():
        if name.startswith(language) and name.endswith("_proj.weight"):
            expected = round_to_nearest(weight, bits=4, group_size=16)
            torch.testing.assert_close(after[name], expected, rtol=0, atol=0)
            assert not torch.equal(after[name], weight)
        else:
            assert torch.equal(after[name], weight), name
    assert rounded.weights_digest == plain.weights_digest
    assert (rounded.changes, plain.changes) == ({"quantisation": "int4-g16"}, {})


def test_generators_key_tells_quantised_weights_apart(tmp_path: Path) -> None:
    folder = make_tiny_member(tmp_path, "llava")
    keys = []
    for config in (None, RoundToNearestConfig(bits=8), RoundToNearestConfig(bits=4)):
        generator = TransformersGenerator.load(folder, changes=WeightsConfig(quantisation=config))
        keys.append(dict(generator.key))
        generator.close()
    assert "quantisation" not in keys[0]
    assert [key.pop("quantisation") for key in keys[1:]] == ["int8", "int4"]
    assert keys[0] == keys[1] == keys[2]


def test_quantising_in_groups_that_do_not_fit_names_layer_and_width(tmp_path: Path) -> None:
    folder = make_tiny_member(tmp_path, "llava")
    config = WeightsConfig(quantisation=RoundToNearestConfig(group_size=48))
    with pytest.raises(ConfigError, match=r"group_size: 48 does not fit .*proj: .*divisor of 64"):
        load_for_inference(folder, changes=config)


def test_bitsandbytes_without_a_gpu_says_what_is_missing_and_what_runs() -> None:
    with pytest.raises(
        ConfigError, match=r"bitsandbytes-nf4.*'cpu', and it needs cuda.*round_to_nearest"
    ):
        require_quantisation(BitsAndBytesConfig(), "cpu")
