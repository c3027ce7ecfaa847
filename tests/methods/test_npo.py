"""NPO's units, its retain term, and its limit."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from safemirage.config.method import GradientAscentConfig, MethodConfig, NPOConfig
from safemirage.methods.build import build_method
from safemirage.methods.forward import supervised_logps
from safemirage.methods.method import Batch, StepBatch
from tests.methods.batches import make_batch
from tests.methods.test_methods import nudge, step_batch, tiny_model


def forget_loss(config: MethodConfig, model: nn.Module, batch: StepBatch) -> float:
    return build_method(config).loss(model, batch).parts["forget/loss"].item()


def with_ratios(model: nn.Module, batch: Batch, ratios: list[float]) -> Batch:
    """The batch with such reference log-probabilities that its samples have these log-ratios, in nats."""
    with torch.no_grad():
        logps_B = supervised_logps(model, batch)
    return replace(batch, reference_logps_B=logps_B - torch.tensor(ratios))


def softplus(value: float) -> float:
    return math.log1p(math.exp(value))


def test_d12_beta_is_per_nat_of_a_sample_or_per_nat_of_a_token() -> None:
    """The original writes NPO with the token-mean over a batch, its paper with each sample's sum."""
    model = tiny_model()
    # Two answers of 2 and 8 tokens, 3 and 4 nats less likely than at the start.
    forget = with_ratios(model, make_batch([3, 3], [2, 8], seed=1), [-3.0, -4.0])
    batch = StepBatch(retain=make_batch([2, 2], [3, 3], seed=2), forget=forget)
    summed = forget_loss(NPOConfig(beta=0.5), model, batch)
    assert summed == pytest.approx((4 * softplus(-1.5) + 4 * softplus(-2.0)) / 2, rel=1e-4)
    # One group of both: 7 nats over 10 tokens, so long answers weigh more and beta acts on 0.7 nats.
    mean = forget_loss(NPOConfig(beta=0.5, reduction="mean", group_size=2), model, batch)
    assert mean == pytest.approx(4 * softplus(-0.35), rel=1e-4)
    # Only with one sample a group does it come to the samples' own means.
    alone = forget_loss(NPOConfig(beta=0.5, reduction="mean", group_size=1), model, batch)
    assert alone == pytest.approx((4 * softplus(-0.75) + 4 * softplus(-0.25)) / 2, rel=1e-4)


def test_d12_the_two_units_agree_where_every_answer_is_one_token() -> None:
    model = tiny_model()
    forget = with_ratios(model, make_batch([3, 5], [1, 1], seed=1), [-1.0, -2.0])
    batch = StepBatch(retain=make_batch([2, 2], [3, 3], seed=2), forget=forget)
    summed = forget_loss(NPOConfig(beta=0.5), model, batch)
    assert forget_loss(NPOConfig(beta=0.5, reduction="mean"), model, batch) == pytest.approx(summed)


def test_d12_weights_are_numbers() -> None:
    """The original's default of its retain weight is a text."""
    config = NPOConfig()
    for name in ("forget_weight", "retain_weight", "retain_term_weight", "kl_weight"):
        assert isinstance(getattr(config, name), float)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_npo_retain_term_original_is_the_negative_of_npo_of_the_retain_batch(
    reduction: str,
) -> None:
    model = tiny_model()
    retain = with_ratios(model, make_batch([2, 6], [3, 5], seed=2), [2.0, -1.0])
    batch = StepBatch(retain=retain, forget=retain)
    config = NPOConfig(beta=0.4, reduction=reduction, group_size=2 if reduction == "mean" else 1)  # type: ignore[arg-type]
    parts = build_method(replace(config, retain_term="original")).loss(model, batch).parts
    assert parts["retain/npo_loss"].item() == pytest.approx(-parts["forget/loss"].item())


def test_npo_retain_term_has_its_weight_in_the_total() -> None:
    model = tiny_model()
    batch = step_batch(model)
    nudge(model)
    config = NPOConfig(
        beta=0.4, retain_term="preference", retain_term_weight=3.0, retain_weight=0.5
    )
    output = build_method(config).loss(model, batch)
    parts = output.parts
    expected = parts["forget/loss"] + 0.5 * parts["retain/loss"] + 3 * parts["retain/npo_loss"]
    assert output.total.item() == pytest.approx(expected.item(), rel=1e-6)


def test_npo_asks_for_the_reference_of_the_sets_it_compares() -> None:
    assert build_method(NPOConfig()).reference_sets == ("forget",)
    with_term = build_method(NPOConfig(retain_term="original"))
    assert with_term.reference_sets == ("forget", "retain")


def test_npo_small_beta_has_the_gradient_of_gradient_ascent() -> None:
    def gradient(config: MethodConfig) -> torch.Tensor:
        model = tiny_model()
        batch = step_batch(model)
        nudge(model)
        build_method(config).loss(model, batch).total.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    # One group of the whole batch: both then are means over the same tokens.
    npo = NPOConfig(beta=1e-5, reduction="mean", group_size=4, retain_weight=0.0)
    ascent = gradient(GradientAscentConfig())
    assert ascent.abs().max() > 1e-3
    torch.testing.assert_close(gradient(npo), ascent, rtol=1e-3, atol=1e-6)
