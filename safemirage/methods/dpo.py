"""DPO: direct preference optimisation towards a refusal, or towards "I do not know", and away from the forget answer."""

from torch import Tensor, nn

from safemirage.config.method import DPOConfig
from safemirage.methods.forward import supervised_logps
from safemirage.methods.losses import cross_entropy_share, dpo_share
from safemirage.methods.method import Batch, LossOutput, StepBatch, Term
from safemirage.methods.retain import BesideRetain


class DPO(BesideRetain[DPOConfig]):
    """a_f mean[-log sigmoid(beta (r_preferred - r_forget))] + the retain terms, r = log pi - log pi_ref in nats.

    Rafailov et al. 2023, arXiv 2305.18290, eq. 7; for unlearning in Zhang et al. 2024 (NPO), whose code multiplies by
    2 / beta and whose preferred answers are TOFU's "I do not know": `data.preferred_answers: idk`.
    """

    reference_sets: tuple[str, ...] = ("forget", "preferred")

    def loss(self, model: nn.Module, batch: StepBatch) -> LossOutput:
        forget, preferred = batch.forget, batch.preferred
        assert forget is not None
        assert preferred is not None
        forget_logps_B = supervised_logps(model, forget)
        preferred_logps_B = supervised_logps(model, preferred)
        forget_ratios_B = _log_ratios(forget_logps_B, forget)
        preferred_ratios_B = _log_ratios(preferred_logps_B, preferred)
        share = dpo_share(
            preferred_ratios_B,
            forget_ratios_B,
            beta=self.config.beta,
            global_samples=forget.global_samples,
        )
        return self.output(
            model,
            batch,
            Term("forget/loss", self.config.forget_weight, share),
            logged={
                "forget/log_ratio": forget_ratios_B.sum() / forget.global_samples,
                "forget/cross_entropy": cross_entropy_share(
                    forget_logps_B, global_tokens=forget.global_tokens
                ),
                "preferred/log_ratio": preferred_ratios_B.sum() / preferred.global_samples,
                "preferred/cross_entropy": cross_entropy_share(
                    preferred_logps_B, global_tokens=preferred.global_tokens
                ),
            },
        )


def _log_ratios(logps_B: Tensor, batch: Batch) -> Tensor:
    assert batch.reference_logps_B is not None
    return logps_B - batch.reference_logps_B
