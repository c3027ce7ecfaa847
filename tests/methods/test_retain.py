"""The retain terms: one forward for all of them, and a reference that stays where the model began."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from safemirage.config.method import (
    DPOConfig,
    GradientAscentConfig,
    GradientDifferenceConfig,
    MethodConfig,
    NPOConfig,
    RMUConfig,
    SFTConfig,
)
from safemirage.methods.build import build_method
from safemirage.methods.forward import supervised_logits
from safemirage.methods.losses import kl_share
from safemirage.methods.method import Batch
from safemirage.methods.retain import ReferenceModel
from tests.methods.batches import make_batch
from tests.methods.test_methods import MODELS, lora_model, nudge, step_batch, tiny_model


def logits_of(model: nn.Module, batch: Batch) -> torch.Tensor:
    return supervised_logits(model, batch)[0]


@pytest.mark.parametrize("make_model", MODELS.values(), ids=MODELS)
def test_reference_model_stays_at_the_initial_weights(make_model: Callable[[], nn.Module]) -> None:
    model, batch = make_model(), make_batch([3, 6], [5, 2], seed=1)
    untouched = copy.deepcopy(model)
    reference = ReferenceModel(model)
    nudge(model)
    expected = logits_of(untouched, batch).detach()
    torch.testing.assert_close(reference.logits(batch), expected, rtol=0, atol=0)
    assert (logits_of(model, batch) - expected).abs().max() > 1e-2
    assert not reference.logits(batch).requires_grad
    assert model.training


def test_reference_model_copies_trained_modules_only_and_none_under_lora() -> None:
    def held(model: nn.Module) -> set[int]:
        copies = ReferenceModel(model)._frozen.values()
        return {p.numel() for module in copies for p in module.parameters()}

    model = tiny_model()
    held_in_full = sum(
        p.numel() for m in ReferenceModel(model)._frozen.values() for p in m.parameters()
    )
    assert held_in_full == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert held(lora_model()) == set()


@pytest.mark.parametrize("make_model", MODELS.values(), ids=MODELS)
def test_kl_is_zero_at_the_start_and_positive_after_a_step(
    make_model: Callable[[], nn.Module],
) -> None:
    model = make_model()
    method = build_method(GradientAscentConfig(kl_weight=1.0))
    method.prepare(model, seed=0)
    batch = step_batch(model)
    assert method.loss(model, batch).parts["retain/kl"].item() == pytest.approx(0.0, abs=1e-6)
    nudge(model)
    assert method.loss(model, batch).parts["retain/kl"].item() > 1e-3


@pytest.mark.parametrize(
    "config",
    [
        GradientAscentConfig(forget_weight=0.0, kl_weight=1.0),
        RMUConfig(hook_layer=0, forget_weight=0.0, alpha=0.0, retain_weight=0.0, kl_weight=1.0),
    ],
    ids=["gradient_ascent", "rmu"],
)
@pytest.mark.parametrize("make_model", MODELS.values(), ids=MODELS)
def test_kl_gradient_is_that_against_a_second_full_copy(
    make_model: Callable[[], nn.Module], config: MethodConfig
) -> None:
    model = make_model()
    second = copy.deepcopy(model)
    method = build_method(config)
    method.prepare(model, seed=0)
    batch = step_batch(model)
    nudge(model)

    def gradient() -> torch.Tensor:
        found = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        model.zero_grad()
        return torch.cat(found)

    method.loss(model, batch).total.backward()
    found = gradient()
    logits_BKV, targets_BK = supervised_logits(model, batch.retain)
    kl_share(
        logits_of(second, batch.retain).detach(),
        logits_BKV,
        targets_BK,
        global_tokens=batch.retain.global_tokens,
    ).backward()
    expected = gradient()
    assert expected.abs().max() > 1e-4
    torch.testing.assert_close(found, expected)


CONFIGS: dict[str, tuple[MethodConfig, int]] = {
    "all terms of NPO": (NPOConfig(kl_weight=1.0, retain_term="original"), 2),
    "gradient difference": (GradientDifferenceConfig(), 2),
    "ascent alone": (GradientAscentConfig(), 1),
    "DPO": (DPOConfig(), 3),
    "SFT": (SFTConfig(), 1),
    "SFT with decoupling": (SFTConfig(decouple_weight=1.0), 2),
}


@pytest.mark.parametrize(("config", "expected"), CONFIGS.values(), ids=CONFIGS)
def test_every_set_runs_once(config: MethodConfig, expected: int) -> None:
    """The reference of the KL term is a view of its own, and is not counted."""
    model = tiny_model()
    method = build_method(config)
    method.prepare(model, seed=0)
    batch = step_batch(model)
    calls: list[int] = []
    handle = model.register_forward_hook(lambda module, *_: calls.append(id(module)))
    method.loss(model, batch)
    handle.remove()
    assert calls.count(id(model)) == expected


def test_weights_of_zero_leave_the_retain_set_out() -> None:
    model = tiny_model()
    parts = build_method(GradientAscentConfig()).loss(model, step_batch(model)).parts
    assert set(parts) == {"forget/loss"}


def test_decoupling_adds_its_own_cross_entropy() -> None:
    model = tiny_model()
    batch = step_batch(model)
    plain = build_method(SFTConfig()).loss(model, batch)
    more = build_method(SFTConfig(decouple_weight=0.5)).loss(model, batch)
    assert batch.decouple is not None
    assert batch.decouple.reference_logps_B is not None
    expected = -batch.decouple.reference_logps_B.sum().item() / batch.decouple.global_tokens
    assert more.parts["decouple/loss"].item() == pytest.approx(expected, rel=1e-5)
    assert (more.total - plain.total).item() == pytest.approx(0.5 * expected, rel=1e-5)
