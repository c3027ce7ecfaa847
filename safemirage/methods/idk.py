"""IDK: the forget set's questions are taught a refusal, or "I do not know", by plain cross-entropy."""

from torch import nn

from safemirage.config.method import IDKConfig
from safemirage.methods.forward import supervised_logps
from safemirage.methods.losses import cross_entropy_share
from safemirage.methods.method import LossOutput, StepBatch, Term
from safemirage.methods.retain import BesideRetain


class IDK(BesideRetain[IDKConfig]):
    """a_f CE(preferred) + the retain terms, token-mean in nats: preference optimisation in TOFU and SafeEraser.

    Maini et al. 2024, arXiv 2401.06121; its code takes one mean over the tokens of both batches instead.
    """

    def loss(self, model: nn.Module, batch: StepBatch) -> LossOutput:
        preferred = batch.preferred
        assert preferred is not None
        share = cross_entropy_share(
            supervised_logps(model, preferred), global_tokens=preferred.global_tokens
        )
        return self.output(model, batch, Term("preferred/loss", self.config.forget_weight, share))
