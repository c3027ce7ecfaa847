"""Gradient ascent on the forget set, and gradient difference: the same beside cross-entropy on the retain set."""

from torch import nn

from safemirage.config.method import GradientAscentConfig, GradientDifferenceConfig
from safemirage.methods.forward import supervised_logps
from safemirage.methods.losses import cross_entropy_share
from safemirage.methods.method import LossOutput, StepBatch, Term
from safemirage.methods.retain import BesideRetain


class GradientAscent(BesideRetain[GradientAscentConfig | GradientDifferenceConfig]):
    """-forget_weight CE(forget) + the retain terms, CE token-mean in nats; it has no lower bound.

    `gradient_ascent` (Jang et al. 2023, "Knowledge Unlearning"): retain_weight 0, so the retain set only counts epochs.
    `gradient_difference` (Liu et al. 2022, "Continual Learning and Private Unlearning"; GradDiff in TOFU): 1. With a
    kl_weight in its place the first is TOFU's KL minimisation.
    """

    def loss(self, model: nn.Module, batch: StepBatch) -> LossOutput:
        forget = batch.forget
        assert forget is not None
        share = -cross_entropy_share(
            supervised_logps(model, forget), global_tokens=forget.global_tokens
        )
        return self.output(model, batch, Term("forget/loss", self.config.forget_weight, share))
