"""One forward pass of a vision-language model: the log-probabilities of what is supervised."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from safemirage.methods.losses import sequence_logps
from safemirage.methods.method import Batch


def supervised_positions(labels_BT: Tensor) -> tuple[Tensor, Tensor]:
    """The positions where logits are needed and the targets that they predict: (K,) positions and (B, K) targets,
    -100 where none."""
    positions_K = (labels_BT[:, 1:] != -100).any(dim=0).nonzero().squeeze(1)
    return positions_K, labels_BT[:, positions_K + 1]


def supervised_logits(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """(B, K, V) logits and (B, K) targets, -100 where none. The output layer runs at supervised positions only."""
    positions_K, targets_BK = supervised_positions(batch.labels_BT)
    output = model(**batch.inputs, logits_to_keep=positions_K, use_cache=False)
    return output.logits, targets_BK


def supervised_logps(model: nn.Module, batch: Batch) -> Tensor:
    """(B,) float32: log-probability of each sample's supervised tokens, summed, in nats."""
    return sequence_logps(*supervised_logits(model, batch))


def num_supervised(labels_BT: Tensor) -> Tensor:
    """(B,): number of supervised tokens of each sample."""
    return (labels_BT[:, 1:] != -100).sum(dim=1)


@contextmanager
def inference(module: nn.Module) -> Iterator[None]:
    """Runs its body without gradient and with dropout off; each part that was in training before is so again afterwards."""
    in_training = [part for part in module.modules() if part.training]
    for part in in_training:
        part.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for part in in_training:
            part.training = True


def base_model(model: nn.Module) -> PreTrainedModel:
    """The transformers model, taken out of a PEFT wrapper; adapters stay active in its layers."""
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    assert isinstance(inner, PreTrainedModel)
    return inner
