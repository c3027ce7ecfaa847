"""The reference model, for terms that need its whole distributions: log-probabilities of fixed sets are cached instead."""

from peft import PeftModel
from torch import Tensor, nn

from safemirage.methods.batch import Batch
from safemirage.methods.forward import base_model, inference, supervised_logits
from safemirage.methods.views import allow_views, frozen_copies, with_copies


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
        allow_views(self._base)
        self._frozen = {} if self._adapter is not None else frozen_copies(self._base)

    def logits(self, batch: Batch) -> Tensor:
        """(B, K, V): logits at the batch's supervised positions."""
        with inference(self._base):
            if self._adapter is not None:
                with self._adapter.disable_adapter():
                    return supervised_logits(self._adapter, batch)[0]
            view = with_copies(self._base, self._frozen, batch.labels_BT.device)
            return supervised_logits(view, batch)[0]
