"""What holds the rest of the model in place: the terms on the retain set, for every method to put beside its own.

`BesideRetain` is what most methods are made of; `ReferenceModel` is the model that the KL term compares with."""

from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from peft import PeftModel
from torch import Tensor, nn

from safemirage.config.method import RetainConfig
from safemirage.methods.forward import (
    base_model,
    inference,
    supervised_logits,
    supervised_logps,
    supervised_positions,
)
from safemirage.methods.losses import cross_entropy_share, kl_share, sequence_logps
from safemirage.methods.method import Batch, LossOutput, StepBatch, Term, loss_output
from safemirage.methods.views import allow_views, frozen_copies, with_copies

ConfigT = TypeVar("ConfigT", bound=RetainConfig)
LogpsTerm = Callable[[Tensor, Batch], Term]
"""Makes one more term out of the retain answers' log-probabilities (B,), in nats."""


class ReferenceModel:
    """The model with the weights it had at the start, without gradient and without dropout.

    Under LoRA it is the model itself with its adapter off, a projector trained by `modules_to_save` included: no copy.
    With full parameters it holds frozen copies of the modules that own a trained tensor, parted among the workers where
    ZeRO-3 parts the model's; modules with nothing trained, such as the vision tower, are the model's own.
    """

    def __init__(self, model: nn.Module) -> None:
        """Call with the initial weights, before an engine takes the model."""
        self._adapter = model if isinstance(model, PeftModel) else None
        self._base = base_model(model)
        allow_views(self._base)
        self._frozen = {} if self._adapter is not None else frozen_copies(self._base)

    @property
    def frozen(self) -> list[nn.Module]:
        """The copies that are held beside the model."""
        return list(self._frozen.values())

    def logits(self, batch: Batch) -> Tensor:
        """(B, K, V): logits at the batch's supervised positions."""
        with inference(self._base):
            if self._adapter is not None:
                with self._adapter.disable_adapter():
                    return supervised_logits(self._adapter, batch)[0]
            view = with_copies(self._base, self._frozen, batch.labels_BT.device)
            return supervised_logits(view, batch)[0]


class RetainTerms:
    """retain_weight CE(retain) + kl_weight KL(reference || policy) + decouple_weight CE(decouple).

    The retain batch runs once for all its terms, and not at all where none has a weight.

    KL: Maini et al. 2024 ("TOFU"), arXiv 2401.06121, at supervised positions.
    Decoupling: Chen et al. 2025 ("SafeEraser"), arXiv 2502.12520: the forget set's questions about harmless images keep
    their ordinary answers, so that the question alone does not set off a refusal. Its code weighs the term with 0.5
    beside gradient ascent and gradient difference, and with 1 beside the others.
    """

    def __init__(self, config: RetainConfig, *, logps_term: LogpsTerm | None = None) -> None:
        self._config = config
        self._logps_term = logps_term
        self._reference: ReferenceModel | None = None

    def prepare(self, model: nn.Module) -> None:
        """Keeps the initial weights where the KL term needs them. Call before an engine takes the model."""
        if self._config.kl_weight > 0:
            self._reference = ReferenceModel(model)

    @property
    def frozen(self) -> list[nn.Module]:
        return [] if self._reference is None else self._reference.frozen

    def terms(self, model: nn.Module, batch: StepBatch) -> list[Term]:
        """The terms of this worker's retain and decouple batches."""
        config = self._config
        terms = []
        if config.retain_weight > 0 or config.kl_weight > 0 or self._logps_term is not None:
            logits_BKV, _ = supervised_logits(model, batch.retain)
            reference_BKV = None
            if config.kl_weight > 0:
                assert self._reference is not None, "prepare comes first"
                reference_BKV = self._reference.logits(batch.retain)
            terms += self.of_logits(logits_BKV, batch.retain, reference_BKV)
        return terms + self.decouple(model, batch)

    def of_logits(
        self, logits_BKV: Tensor, retain: Batch, reference_BKV: Tensor | None
    ) -> list[Term]:
        """The retain batch's terms, from its logits at supervised positions and, for KL, the reference's."""
        _, targets_BK = supervised_positions(retain.labels_BT)
        logps_B = sequence_logps(logits_BKV, targets_BK)
        loss = cross_entropy_share(logps_B, global_tokens=retain.global_tokens)
        terms = [Term("retain/loss", self._config.retain_weight, loss)]
        if reference_BKV is not None:
            kl = kl_share(reference_BKV, logits_BKV, targets_BK, global_tokens=retain.global_tokens)
            terms.append(Term("retain/kl", self._config.kl_weight, kl))
        if self._logps_term is not None:
            terms.append(self._logps_term(logps_B, retain))
        return terms

    def decouple(self, model: nn.Module, batch: StepBatch) -> list[Term]:
        """The decouple batch's term, where it has a weight."""
        if self._config.decouple_weight == 0:
            return []
        assert batch.decouple is not None
        share = cross_entropy_share(
            supervised_logps(model, batch.decouple), global_tokens=batch.decouple.global_tokens
        )
        return [Term("decouple/loss", self._config.decouple_weight, share)]


class BesideRetain(Generic[ConfigT]):
    """What a method has whose loss is a term of its own beside the retain terms: nothing to save, and no reference unless
    it says so."""

    reference_sets: tuple[str, ...] = ()

    def __init__(self, config: ConfigT, *, logps_term: LogpsTerm | None = None) -> None:
        self.config = config
        self._retain = RetainTerms(config, logps_term=logps_term)

    def prepare(self, model: nn.Module, *, seed: int) -> None:
        self._retain.prepare(model)

    @property
    def frozen(self) -> list[nn.Module]:
        return self._retain.frozen

    def output(
        self,
        model: nn.Module,
        batch: StepBatch,
        own: Term,
        *,
        logged: Mapping[str, Tensor] | None = None,
    ) -> LossOutput:
        """The method's own term and the retain terms, which run after it."""
        return loss_output([own, *self._retain.terms(model, batch)], logged=logged)

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        assert not state
