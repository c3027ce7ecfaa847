from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from safemirage.config.method import (
    DPOConfig,
    GradientAscentConfig,
    GradientDifferenceConfig,
    IDKConfig,
    MethodConfig,
    NPOConfig,
    RMUConfig,
    SFTConfig,
    SimNPOConfig,
)
from safemirage.methods.build import build_method
from safemirage.methods.forward import supervised_logps
from safemirage.methods.losses import activation_lengths, activation_share
from safemirage.methods.method import StepBatch
from tests.methods.batches import make_batch, select_step
from tests.tiny import build_tiny_llava

METHODS: list[MethodConfig] = [
    SFTConfig(),
    NPOConfig(beta=0.5),
    NPOConfig(beta=0.5, reduction="mean", group_size=2),
    RMUConfig(hook_layer=0, mask="all"),
    RMUConfig(hook_layer=1, mask="text"),
    RMUConfig(hook_layer=0, mask="answer"),
    RMUConfig(hook_layer=1, adaptive_scale=5.0),
    RMUConfig(hook_layer=0, alpha=0.5, kl_weight=0.7, decouple_weight=0.5),
    RMUConfig(hook_layer=0, alpha=0.0, retain_weight=0.0, kl_weight=1.0),
    NPOConfig(beta=0.5, retain_term="original", retain_term_weight=0.7),
    NPOConfig(beta=0.5, reduction="mean", group_size=2, retain_term="preference"),
    GradientAscentConfig(),
    GradientAscentConfig(kl_weight=0.5),
    GradientDifferenceConfig(forget_weight=0.5),
    # An untrained model gives -6.8 nats a token: at the usual beta SimNPO has long let go.
    SimNPOConfig(beta=0.1, gamma=0.3),
    DPOConfig(beta=0.2),
    IDKConfig(decouple_weight=0.5),
    SFTConfig(kl_weight=2.0, decouple_weight=1.0),
]


def name_of(config: MethodConfig) -> str:
    """The config without its defaults, for a test's name."""
    options = {k: v for k, v in vars(config).items() if v != getattr(type(config), k)}
    return "-".join([config.name, *(f"{key}={value}" for key, value in options.items())])


def tiny_model() -> nn.Module:
    model = build_tiny_llava(0).model
    model.requires_grad_(True)
    model.model.vision_tower.requires_grad_(False)
    return model.train()


def lora_model() -> nn.Module:
    """The tiny model with an adapter on its language model, and its projector trained as part of the adapter."""
    lora = LoraConfig(
        r=4, target_modules=r".*language_model.*_proj", modules_to_save=["multi_modal_projector"]
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return get_peft_model(tiny_model(), lora)


MODELS = {"full": tiny_model, "lora": lora_model}


@torch.no_grad()
def step_batch(model: nn.Module) -> StepBatch:
    """Four samples of every set, the reference's log-probabilities those of the model as it is."""
    sets = {
        "retain": make_batch([2, 2, 6, 3], [3, 8, 2, 5], seed=2),
        "forget": make_batch([3, 5, 2, 4], [6, 2, 7, 4], seed=1),
        "preferred": make_batch([3, 5, 2, 4], [2, 3, 1, 4], seed=3),
        "decouple": make_batch([4, 2, 2, 3], [3, 2, 5, 1], seed=4),
    }
    return StepBatch(
        **{
            name: replace(batch, reference_logps_B=supervised_logps(model, batch))
            for name, batch in sets.items()
        }
    )


def nudge(model: nn.Module) -> None:
    """A step away from the initial weights, so that no term is zero."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator)


def test_supervised_logps_equal_the_full_logits_of_each_sample_alone() -> None:
    model, batch = tiny_model(), make_batch([3, 6], [5, 2], seed=1)
    logps = supervised_logps(model, batch)
    for row in range(2):
        length = int(batch.inputs["attention_mask"][row].sum())
        inputs = {
            "input_ids": batch.inputs["input_ids"][row : row + 1, :length],
            "pixel_values": batch.inputs["pixel_values"][row : row + 1],
        }
        log_probabilities = model(**inputs).logits.log_softmax(-1)[0]
        expected = torch.stack(
            [
                log_probabilities[position - 1, batch.labels_BT[row, position]]
                for position in range(1, length)
                if batch.labels_BT[row, position] != -100
            ]
        ).sum()
        assert logps[row].item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("make_model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("config", METHODS, ids=name_of)
def test_loss_does_not_depend_on_how_the_batch_is_cut(
    config: MethodConfig, make_model: Callable[[], nn.Module]
) -> None:
    def run(cuts: list[slice]) -> tuple[float, dict[str, float], torch.Tensor]:
        model = make_model()
        method = build_method(config)
        method.prepare(model, seed=0)
        whole = step_batch(model)
        nudge(model)
        total, parts = 0.0, dict[str, float]()
        for rows in cuts:
            output = method.loss(model, select_step(whole, rows))
            output.total.backward()
            total += output.total.item()
            for name, value in output.parts.items():
                parts[name] = parts.get(name, 0.0) + value.item()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        return total, parts, gradient

    total, parts, gradient = run([slice(0, 4)])
    cut_total, cut_parts, cut_gradient = run([slice(0, 2), slice(2, 4)])
    assert cut_total == pytest.approx(total, rel=1e-5)
    assert cut_parts == pytest.approx(parts, rel=1e-4)
    torch.testing.assert_close(cut_gradient, gradient, rtol=1e-3, atol=1e-5 * gradient.abs().max())


UNLEARNING: list[Any] = [c for c in METHODS if not isinstance(c, SFTConfig | RMUConfig)]


@torch.no_grad()
def to_lower(config: MethodConfig, model: nn.Module, batch: StepBatch) -> float:
    """The log-probability, in nats, that a method promises to lower: IDK and DPO teach another answer."""
    assert batch.forget is not None
    assert batch.preferred is not None
    preferred = supervised_logps(model, batch.preferred).sum().item()
    if isinstance(config, IDKConfig):
        return -preferred
    forget = supervised_logps(model, batch.forget).sum().item()
    return forget - preferred if isinstance(config, DPOConfig) else forget


@pytest.mark.parametrize("make_model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("config", UNLEARNING, ids=name_of)
def test_steps_lower_the_loss_and_what_the_method_is_to_lower(
    config: Any, make_model: Callable[[], nn.Module]
) -> None:
    model = make_model()
    batch = step_batch(model)
    # So much that the retain terms of an untrained model, which share all its weights, do not outweigh it.
    method = build_method(replace(config, forget_weight=10.0))
    method.prepare(model, seed=0)
    before = to_lower(config, model, batch)
    optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=1e-3)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        output = method.loss(model, batch)
        output.total.backward()
        optimizer.step()
        losses.append(output.total.item())
    assert losses[-1] < losses[0]
    assert to_lower(config, model, batch) < before


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_npo_steps_lower_the_forget_answers_and_keep_the_retain_ones(reduction: str) -> None:
    model = tiny_model()
    batch = step_batch(model)
    method = build_method(NPOConfig(beta=0.1, reduction=reduction))
    assert batch.forget is not None
    before = supervised_logps(model, batch.forget).sum().item()
    retain_before = supervised_logps(model, batch.retain).sum().item()
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.01)
    for _ in range(5):
        optimizer.zero_grad()
        method.loss(model, batch).total.backward()
        optimizer.step()
    assert supervised_logps(model, batch.forget).sum().item() < before
    assert supervised_logps(model, batch.retain).sum().item() > retain_before


def test_npo_at_the_initial_weights_has_log_ratio_zero_and_loss_two_ln_two_over_beta() -> None:
    model = tiny_model()
    output = build_method(NPOConfig(beta=0.25)).loss(model, step_batch(model))
    assert output.parts["forget/log_ratio"].item() == pytest.approx(0.0, abs=1e-4)
    assert output.parts["forget/loss"].item() == pytest.approx(8 * 0.693147, rel=1e-4)


def test_rmu_step_moves_forget_activations_towards_the_control_vector() -> None:
    model = tiny_model()
    batch = step_batch(model)
    method = build_method(RMUConfig(hook_layer=1, steering_coefficient=5.0, retain_weight=0.0))
    method.prepare(model, seed=0)
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.001)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        output = method.loss(model, batch)
        output.total.backward()
        optimizer.step()
        losses.append(output.parts["forget/loss"].item())
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]


def test_rmu_at_the_initial_weights_has_no_retain_distance() -> None:
    model = tiny_model()
    method = build_method(RMUConfig(hook_layer=1))
    method.prepare(model, seed=0)
    assert method.loss(model, step_batch(model)).parts["retain/activation_loss"].item() == 0.0


def test_rmu_control_vector_is_restored_from_its_state() -> None:
    first, second = build_method(RMUConfig(hook_layer=0)), build_method(RMUConfig(hook_layer=0))
    first.prepare(tiny_model(), seed=1)
    second.prepare(tiny_model(), seed=2)
    assert not torch.equal(
        first.state_dict()["control_vector"], second.state_dict()["control_vector"]
    )
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.state_dict()["control_vector"], second.state_dict()["control_vector"])


def test_rmu_hook_layer_beyond_the_model_names_the_last_one() -> None:
    with pytest.raises(ValueError, match=r"method\.hook_layer: 2, .* the last is 1"):
        build_method(RMUConfig(hook_layer=2)).prepare(tiny_model(), seed=0)


@pytest.mark.parametrize(
    "make", [lambda: build_method(NPOConfig()), lambda: build_method(SFTConfig())]
)
def test_methods_without_state_save_none(make: Callable[[], object]) -> None:
    assert make().state_dict() == {}  # type: ignore[attr-defined]


def test_activation_lengths_two_samples_average_their_counted_positions() -> None:
    hidden = torch.tensor([[[3.0, 4.0], [100.0, 0.0]], [[0.0, 1.0], [0.0, 3.0]]])
    mask = torch.tensor([[True, False], [True, True]])
    torch.testing.assert_close(activation_lengths(hidden, mask), torch.tensor([5.0, 2.0]))


def test_adaptive_rmu_steers_each_sample_to_its_own_initial_length() -> None:
    model = tiny_model()
    batch = step_batch(model)
    assert batch.forget is not None
    method = build_method(RMUConfig(hook_layer=1, adaptive_scale=5.0, retain_weight=0, alpha=0))
    method.prepare(model, seed=0)
    unit = method.state_dict()["control_vector"]
    assert unit.norm().item() == pytest.approx(1.0)
    seen: list[torch.Tensor] = []
    model.get_decoder().layers[1].register_forward_hook(lambda *a: seen.append(a[2].detach()))
    model(**batch.forget.inputs)
    lengths = activation_lengths(seen[0], batch.forget.inputs["attention_mask"])
    nudge(model)  # the lengths are those of the weights at the start
    model(**batch.forget.inputs)
    expected = activation_share(
        seen[1],
        5.0 * lengths[:, None, None] * unit,
        batch.forget.inputs["attention_mask"],
        global_samples=4,
    )
    torch.testing.assert_close(method.loss(model, batch).parts["forget/loss"], expected)


@pytest.mark.parametrize(
    ("weights", "logged"),
    [
        ({"alpha": 0.0}, {"forget/loss", "retain/loss"}),
        ({"retain_weight": 0.0}, {"forget/loss", "retain/activation_loss"}),
        ({"alpha": 0.0, "retain_weight": 0.0}, {"forget/loss"}),
        ({"forget_weight": 0.0}, {"retain/activation_loss", "retain/loss"}),
    ],
)
def test_rmu_runs_and_logs_no_term_without_weight(
    weights: dict[str, float], logged: set[str]
) -> None:
    model = tiny_model()
    method = build_method(RMUConfig(hook_layer=0, **weights))
    method.prepare(model, seed=0)
    calls = [0]
    model.get_decoder().layers[1].register_forward_pre_hook(
        lambda *_: calls.__setitem__(0, calls[0] + 1)
    )
    batch = step_batch(model)
    calls[0] = 0
    assert set(method.loss(model, batch).parts) == logged
    # Above the hook runs the retain batch, for its cross-entropy alone.
    assert calls[0] == ("retain/loss" in logged)


def test_rmu_without_any_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to train for"):
        RMUConfig(forget_weight=0, alpha=0, retain_weight=0)
