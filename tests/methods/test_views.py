"""The short forward against the long one: every part of the model, every way to train it, several families."""

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from safemirage.methods.forward import (
    base_model,
    supervised_logits,
    supervised_logps,
    supervised_positions,
)
from safemirage.methods.losses import sequence_logps
from safemirage.methods.method import Batch
from safemirage.methods.views import LayerViews
from tests.methods.families import build_family, family_batch

HOOK = 2
DOWN = r"layers\.[12]\.mlp\.down_proj"
PROJECTOR = r"multi_modal_projector|visual\.merger"
PATTERNS = {"all": ".", "down_proj": DOWN, "down_proj+projector": f"{DOWN}|{PROJECTOR}"}
TRAINED = [*PATTERNS, "lora", "lora+projector"]


def trained_model(family: str, trained: str) -> Any:
    """A model in training, with gradients required just where `trained` says."""
    model = build_family(family).train()
    names = [name for name, _ in model.named_modules()]
    if trained.startswith("lora"):
        projector = next(n for n in names if n.endswith(("multi_modal_projector", "visual.merger")))
        saved = [projector] if trained == "lora+projector" else None
        config = LoraConfig(
            r=4, target_modules=r".*language_model.*_proj", modules_to_save=saved, lora_dropout=0.0
        )
        return get_peft_model(model, config)
    model.requires_grad_(False)
    for name, parameter in model.named_parameters():
        is_vision = "vision_tower" in name or ("visual." in name and "merger" not in name)
        matches = re.search(PATTERNS[trained], name) is not None
        parameter.requires_grad_(matches and not is_vision)
    return model


def logps_of(logits_BKV: Tensor, batch: Batch) -> Tensor:
    return sequence_logps(logits_BKV, supervised_positions(batch.labels_BT)[1])


def nudge(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator)


def hooked_output(model: nn.Module, batch: Batch, layer: int = HOOK) -> Tensor:
    """What a forward hook on the decoder layer sees: the plain way to the same activations."""
    seen: list[Tensor] = []
    decoder = base_model(model).get_decoder()
    handle = decoder.layers[layer].register_forward_hook(
        lambda _module, _args, output: seen.append(output)
    )
    model(**batch.inputs)
    handle.remove()
    return seen[0]


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def count_calls(module: nn.Module) -> list[int]:
    calls = [0]

    def count(*_: object) -> None:
        calls[0] += 1

    module.register_forward_pre_hook(count)
    return calls


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("trained", TRAINED)
def test_short_forward_equals_the_long_one(trained: str, checkpointing: bool) -> None:
    model, batch = trained_model("llava", trained), family_batch("llava")
    if checkpointing:
        base_model(model).gradient_checkpointing_enable({"use_reentrant": False})
    views = LayerViews(model, hook_layer=HOOK)
    nudge(model)
    lower = views.lower(batch.inputs)
    hidden = views.hook(lower)
    logps = logps_of(views.logits(lower, hidden, batch), batch)
    long_hidden, long_logps = hooked_output(model, batch), supervised_logps(model, batch)
    torch.testing.assert_close(hidden, long_hidden, rtol=0, atol=0)
    torch.testing.assert_close(logps, long_logps, rtol=1e-6, atol=0)
    short = gradients(model, hidden.square().mean() - logps.sum())
    long = gradients(model, long_hidden.square().mean() - long_logps.sum())
    assert short.keys() == long.keys()
    for name, gradient in long.items():
        largest = float(gradient.abs().max())
        torch.testing.assert_close(short[name], gradient, rtol=1e-5, atol=1e-5 * largest)


@pytest.mark.parametrize("trained", TRAINED)
def test_reference_equals_a_second_copy_of_the_model(trained: str) -> None:
    model, batch = trained_model("llava", trained), family_batch("llava")
    second_copy = copy.deepcopy(model)
    views = LayerViews(model, hook_layer=HOOK)
    nudge(model)
    lower = views.lower(batch.inputs)
    expected = hooked_output(second_copy, batch)
    reference = views.reference(lower)
    torch.testing.assert_close(reference, expected, rtol=1e-6, atol=1e-6)
    assert not reference.requires_grad
    assert (views.hook(lower) - expected).abs().max() > 1e-3


@pytest.mark.parametrize("trained", TRAINED)
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_reference_logits_equal_those_of_a_second_copy(family: str, trained: str) -> None:
    model, batch = trained_model(family, trained), family_batch(family)
    second_copy = copy.deepcopy(model)
    views = LayerViews(model, hook_layer=HOOK, with_reference_logits=True)
    nudge(model)
    lower = views.lower(batch.inputs)
    hidden, logits = views.reference_logits(lower, batch)
    torch.testing.assert_close(hidden, hooked_output(second_copy, batch), rtol=1e-6, atol=1e-6)
    expected = supervised_logits(second_copy, batch)[0]
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-6)
    assert not logits.requires_grad
    assert (views.logits(lower, views.hook(lower), batch) - expected).abs().max() > 1e-3


@pytest.mark.parametrize("trained", ["all", "down_proj", "down_proj+projector", "lora"])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_short_forward_of_another_family_equals_the_long_one(family: str, trained: str) -> None:
    model, batch = trained_model(family, trained), family_batch(family)
    second_copy = copy.deepcopy(model)
    views = LayerViews(model, hook_layer=HOOK)
    nudge(model)
    lower = views.lower(batch.inputs)
    hidden = views.hook(lower)
    torch.testing.assert_close(hidden, hooked_output(model, batch), rtol=0, atol=0)
    logps = logps_of(views.logits(lower, hidden, batch), batch)
    torch.testing.assert_close(logps, supervised_logps(model, batch), rtol=1e-6, atol=0)
    expected = hooked_output(second_copy, batch)
    torch.testing.assert_close(views.reference(lower), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("trained", "below", "encoder"),
    [("down_proj", 1, 1), ("down_proj+projector", 2, 1), ("all", 2, 1)],
)
def test_what_is_frozen_runs_once_for_policy_and_reference(
    trained: str, below: int, encoder: int
) -> None:
    model, batch = trained_model("llava", trained), family_batch("llava")
    views = LayerViews(model, hook_layer=HOOK)
    decoder = model.get_decoder()
    first, above = count_calls(decoder.layers[0]), count_calls(decoder.layers[HOOK + 1])
    tower = count_calls(model.model.vision_tower.encoder.layers[0])
    lower = views.lower(batch.inputs)
    views.hook(lower)
    views.reference(lower)
    assert (first, tower, above) == ([below], [encoder], [0])


def test_lower_part_below_the_first_trained_layer_keeps_no_graph() -> None:
    model, batch = trained_model("llava", "down_proj"), family_batch("llava")
    views = LayerViews(model, hook_layer=HOOK)
    lower = views.lower(batch.inputs)
    assert not lower.hidden_BTH.requires_grad
    assert views.hook(lower).requires_grad
    assert model.training


@pytest.mark.parametrize(
    ("trained", "weights"),
    [
        ("down_proj", lambda m: [m.get_decoder().layers[i].mlp.down_proj for i in (1, 2)]),
        ("lora+projector", lambda _: []),
        (
            "all",
            lambda m: [
                m.model.multi_modal_projector,
                m.get_decoder().embed_tokens,
                *m.get_decoder().layers[: HOOK + 1],
            ],
        ),
    ],
)
def test_reference_holds_the_trained_tensors_up_to_the_hook_and_no_others(
    trained: str, weights: Callable[[Any], list[nn.Module]]
) -> None:
    model = trained_model("llava", trained)
    views = LayerViews(model, hook_layer=HOOK)
    expected = sum(p.nbytes for module in weights(model) for p in module.parameters())
    assert views.reference_bytes == expected


def test_hook_at_the_last_layer_leaves_the_final_norm_to_the_rest() -> None:
    model, batch = trained_model("llava", "all"), family_batch("llava")
    views = LayerViews(model, hook_layer=3)
    lower = views.lower(batch.inputs)
    hidden = views.hook(lower)
    torch.testing.assert_close(hidden, hooked_output(model, batch, 3), rtol=0, atol=0)
    logps = logps_of(views.logits(lower, hidden, batch), batch)
    torch.testing.assert_close(logps, supervised_logps(model, batch), rtol=1e-6, atol=0)


def test_hook_below_everything_that_is_trained_is_refused() -> None:
    model = trained_model("llava", "down_proj")
    with pytest.raises(ValueError, match=r"method\.hook_layer: 0, .*cannot be steered"):
        LayerViews(model, hook_layer=0)


def test_adapter_stays_on_after_the_reference() -> None:
    model, batch = trained_model("llava", "lora+projector"), family_batch("llava")
    assert isinstance(model, PeftModel)
    views = LayerViews(model, hook_layer=HOOK)
    nudge(model)
    expected = supervised_logps(model, batch)
    views.reference(views.lower(batch.inputs))
    torch.testing.assert_close(supervised_logps(model, batch), expected, rtol=0, atol=0)
    assert any(p.requires_grad for p in model.parameters())
