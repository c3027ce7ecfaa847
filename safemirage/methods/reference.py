"""The reference model, for terms that need its whole distributions: log-probabilities of fixed sets are cached instead."""

import copy

from peft import PeftModel
from torch import Tensor, nn

from safemirage.methods.batch import Batch
from safemirage.methods.forward import base_model, inference, supervised_logits
from safemirage.methods.views import replace_modules


class ReferenceModel:
    """The model with the weights it had at the start, without gradient and without dropout.

    Under LoRA it is the model itself with its adapter off, a projector trained by `modules_to_save` included: no copy.
    With full parameters it holds frozen copies of the modules that own a trained tensor, whole on every worker (ZeRO
    does not share them out); modules with nothing trained, such as the vision tower, are the model's own.
    """

    def __init__(self, model: nn.Module) -> None:
        """Call with the initial weights, before an engine takes the model."""
        self._adapter = model if isinstance(model, PeftModel) else None
        self._base = base_model(model)
        self._frozen = {} if self._adapter is not None else _frozen_copies(self._base)

    def logits(self, batch: Batch) -> Tensor:
        """(B, K, V): logits at the batch's supervised positions."""
        with inference(self._base):
            if self._adapter is not None:
                with self._adapter.disable_adapter():
                    return supervised_logits(self._adapter, batch)[0]
            device = batch.labels_BT.device
            frozen = {path: module.to(device) for path, module in self._frozen.items()}
            return supervised_logits(replace_modules(self._base, frozen), batch)[0]


def _frozen_copies(model: nn.Module) -> dict[str, nn.Module]:
    """Copies of the modules that own a trained tensor, by path."""
    return {
        path: copy.deepcopy(module).requires_grad_(False).eval()
        for path, module in model.named_modules()
        if any(p.requires_grad for p in module.parameters(recurse=False))
    }
