"""Every method's loss on CUDA is that on the CPU; what `prepare` kept of the initial weights comes along."""

from collections.abc import Callable
from dataclasses import fields, replace

import pytest
import torch
from torch import nn

from safemirage.config.method import MethodConfig
from safemirage.methods.build import build_method
from safemirage.methods.method import Batch, StepBatch
from tests.methods.test_methods import METHODS, MODELS, name_of, nudge, step_batch


def to_cuda(batch: StepBatch) -> StepBatch:
    def moved(part: Batch) -> Batch:
        assert part.reference_logps_B is not None
        return replace(
            part,
            inputs={name: tensor.cuda() for name, tensor in part.inputs.items()},
            labels_BT=part.labels_BT.cuda(),
            image_mask_BT=part.image_mask_BT.cuda(),
            reference_logps_B=part.reference_logps_B.cuda(),
        )

    return replace(batch, **{item.name: moved(getattr(batch, item.name)) for item in fields(batch)})


@pytest.mark.parametrize("make_model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("config", METHODS, ids=name_of)
def test_method_on_cuda_gives_the_losses_of_the_cpu(
    config: MethodConfig, make_model: Callable[[], nn.Module]
) -> None:
    model = make_model()
    method = build_method(config)
    method.prepare(model, seed=0)
    batch = step_batch(model)
    nudge(model)
    expected = {name: value.item() for name, value in method.loss(model, batch).parts.items()}
    output = method.loss(model.cuda(), to_cuda(batch))
    assert output.total.device.type == "cuda"
    assert {k: v.item() for k, v in output.parts.items()} == pytest.approx(expected, rel=1e-3)
    output.total.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
