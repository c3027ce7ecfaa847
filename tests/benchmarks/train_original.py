"""The original's way of a training step, built from its description: a loss is a sum of terms, each with forwards of
its own over the whole model, and the reference is a second full copy of the initial model.

L is the mean cross-entropy over the supervised tokens of a batch, with logits at every position; h the output of
decoder layer `hook`, seen by a forward hook.

    NPO:  z = L - L_ref of a batch,  (2 / beta) -log sigmoid(beta z_f) + (2 / beta) log sigmoid(beta z_r) + L(retain)
    RMU:  mean (h(forget) - c v)^2 + alpha mean (h(retain) - h_ref(retain))^2 + L(retain)
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safemirage.methods.forward import base_model
from safemirage.methods.method import Batch, StepBatch

Terms = dict[str, Tensor]
"""By the names that the methods log."""
OriginalLoss = Callable[[nn.Module, StepBatch], Terms]


def npo_terms(reference: nn.Module, *, beta: float, has_retain_term: bool) -> OriginalLoss:
    def loss(model: nn.Module, batch: StepBatch) -> Terms:
        assert batch.forget is not None
        scale = 2 / beta
        forget = cross_entropy(model, batch.forget) - _frozen(
            cross_entropy, reference, batch.forget
        )
        terms = {"forget/loss": -F.logsigmoid(beta * forget) * scale}
        if has_retain_term:
            retain = cross_entropy(model, batch.retain)
            retain = retain - _frozen(cross_entropy, reference, batch.retain)
            terms["retain/npo_loss"] = F.logsigmoid(beta * retain) * scale
        return {**terms, "retain/loss": cross_entropy(model, batch.retain)}

    return loss


def rmu_terms(reference: nn.Module, *, hook: int, control_H: Tensor) -> OriginalLoss:
    def activations(model: nn.Module, batch: Batch) -> Tensor:
        seen: list[Tensor] = []
        layer = base_model(model).get_decoder().layers[hook]
        handle = layer.register_forward_hook(lambda _module, _args, output: seen.append(output))
        model(**batch.inputs)
        handle.remove()
        return seen[0]

    def loss(model: nn.Module, batch: StepBatch) -> Terms:
        assert batch.forget is not None
        forget = activations(model, batch.forget)
        target = control_H.to(forget.device, forget.dtype).expand_as(forget)
        retain = activations(model, batch.retain)
        return {
            "forget/loss": F.mse_loss(forget, target),
            "retain/activation_loss": F.mse_loss(
                retain, _frozen(activations, reference, batch.retain)
            ),
            "retain/loss": cross_entropy(model, batch.retain),
        }

    return loss


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    loss: Tensor = model(**batch.inputs, labels=batch.labels_BT).loss
    return loss


def _frozen(
    forward: Callable[[nn.Module, Batch], Tensor], reference: nn.Module, batch: Batch
) -> Tensor:
    with torch.no_grad():
        return forward(reference, batch)
