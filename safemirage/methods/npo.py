"""NPO: negative preference optimisation of the forget set beside the retain terms."""

from torch import Tensor, nn

from safemirage.config.method import NPOConfig
from safemirage.methods.forward import num_supervised, supervised_logps
from safemirage.methods.losses import (
    cross_entropy_share,
    npo_retain_share,
    npo_share,
    token_mean_log_ratios,
)
from safemirage.methods.method import Batch, LossOutput, StepBatch, Term
from safemirage.methods.retain import BesideRetain


class NPO(BesideRetain[NPOConfig]):
    """a_f (2 / beta) mean[-log sigmoid(-beta r)] + the retain terms, r = log pi - log pi_ref of the forget answers.

    `sum` (Zhang et al. 2024, arXiv 2404.05868, eq. 3): r of each sample, summed over its supervised tokens, in nats.
    `mean` (Safety Mirage's code): r of each group of samples, averaged over its supervised tokens, in nats a token.
    `retain_term` adds a log-sigmoid term of the retain answers' r; `npo_retain_share` has its two forms.
    """

    def __init__(self, config: NPOConfig) -> None:
        has_term = config.retain_term != "none"
        super().__init__(config, logps_term=self._retain_term if has_term else None)
        self.reference_sets = ("forget", "retain") if has_term else ("forget",)

    def loss(self, model: nn.Module, batch: StepBatch) -> LossOutput:
        forget = batch.forget
        assert forget is not None
        assert forget.reference_logps_B is not None
        forget_logps_B = supervised_logps(model, forget)
        log_ratios_B = forget_logps_B - forget.reference_logps_B
        log_ratios_G, global_groups = self._groups(log_ratios_B, forget)
        share = npo_share(log_ratios_G, beta=self.config.beta, global_groups=global_groups)
        return self.output(
            model,
            batch,
            Term("forget/loss", self.config.forget_weight, share),
            logged={
                "forget/log_ratio": log_ratios_B.sum() / forget.global_samples,
                "forget/cross_entropy": cross_entropy_share(
                    forget_logps_B, global_tokens=forget.global_tokens
                ),
            },
        )

    def _retain_term(self, logps_B: Tensor, retain: Batch) -> Term:
        form = self.config.retain_term
        assert form != "none"
        assert retain.reference_logps_B is not None
        log_ratios_G, global_groups = self._groups(logps_B - retain.reference_logps_B, retain)
        share = npo_retain_share(
            log_ratios_G, beta=self.config.beta, global_groups=global_groups, form=form
        )
        return Term("retain/npo_loss", self.config.retain_term_weight, share)

    def _groups(self, log_ratios_B: Tensor, batch: Batch) -> tuple[Tensor, int]:
        """(G,) log-ratios as the reduction takes them, and their number in the global batch."""
        if self.config.reduction == "sum":
            return log_ratios_B, batch.global_samples
        size = self.config.group_size
        log_ratios_G = token_mean_log_ratios(
            log_ratios_B, num_supervised(batch.labels_BT), group_size=size
        )
        return log_ratios_G, batch.global_samples // size
