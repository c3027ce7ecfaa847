"""SFT: supervised fine-tuning on the retain set. Base models, and the Mixed, Post-hoc and diversified baselines."""

from torch import nn

from safemirage.config.method import SFTConfig
from safemirage.methods.method import LossOutput, StepBatch, loss_output
from safemirage.methods.retain import BesideRetain


class SFT(BesideRetain[SFTConfig]):
    """Token-mean cross-entropy over the supervised tokens of the global batch, in nats a token.

    The paper's baselines differ in data and start alone. Mixed: a base on safety data and general data. Post-hoc: a
    given model on safety data alone. Diversified: Mixed with the first words of the safety questions varied.
    """

    def loss(self, model: nn.Module, batch: StepBatch) -> LossOutput:
        return loss_output(self._retain.terms(model, batch))
