"""SimNPO: NPO with the length-normalised log-probability in place of the ratio to a reference."""

from torch import nn

from safemirage.config.method import SimNPOConfig
from safemirage.methods.forward import num_supervised, supervised_logps
from safemirage.methods.losses import cross_entropy_share, simnpo_share
from safemirage.methods.method import LossOutput, StepBatch, Term
from safemirage.methods.retain import BesideRetain


class SimNPO(BesideRetain[SimNPOConfig]):
    """a_f (2 / beta) mean[-log sigmoid(-(beta / |y|) log pi - gamma)] + the retain terms, log pi in nats.

    Fan et al. 2024, arXiv 2410.07163. Its code subtracts a margin before it multiplies by beta: gamma here is
    beta times that one.
    """

    def loss(self, model: nn.Module, batch: StepBatch) -> LossOutput:
        forget = batch.forget
        assert forget is not None
        logps_B = supervised_logps(model, forget)
        share = simnpo_share(
            logps_B / num_supervised(forget.labels_BT),
            beta=self.config.beta,
            gamma=self.config.gamma,
            global_samples=forget.global_samples,
        )
        return self.output(
            model,
            batch,
            Term("forget/loss", self.config.forget_weight, share),
            logged={
                "forget/cross_entropy": cross_entropy_share(
                    logps_B, global_tokens=forget.global_tokens
                )
            },
        )
