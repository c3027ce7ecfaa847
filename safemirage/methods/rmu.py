"""RMU: representation misdirection for unlearning. Forget activations go to a random vector, retain ones stay."""

from collections.abc import Mapping

from torch import Tensor, nn

from safemirage.config.method import RMUConfig
from safemirage.methods.losses import activation_lengths, activation_share, control_vector
from safemirage.methods.method import Batch, LossOutput, StepBatch, Term, loss_output
from safemirage.methods.retain import RetainTerms
from safemirage.methods.views import LayerViews, Lower


class RMU:
    """a_f |h(x_f) - c v|^2 / H + alpha |h(x_r) - h_ref(x_r)|^2 / H + the retain terms, h at one decoder layer's output.

    Li et al. 2024 ("The WMDP Benchmark") without the last; Safety Mirage's code with CE(retain). Squared distances are
    averaged over a sample's positions, then over samples: with one sample a batch that is the original's mean, and
    it does not depend on how a batch is cut. Padding never counts. The retain batch runs once for all its terms, and
    no part of the model runs for a term whose weight is 0.

    Adaptive (Huu-Tien et al. 2025, "On Effects of Steering Latent Representation for Large Language Model Unlearning",
    AAAI, arXiv 2408.06223): c of a forget sample is `adaptive_scale` |h_ref(x_f)|, with the length averaged over the
    positions that count; the paper leaves open how a sample's tokens are put together.
    """

    reference_sets: tuple[str, ...] = ()

    def __init__(self, config: RMUConfig) -> None:
        self.config = config
        self._retain = RetainTerms(config)
        self._views: LayerViews | None = None
        self._control_H: Tensor | None = None

    def prepare(self, model: nn.Module, *, seed: int) -> None:
        """Draws the control vector and freezes a copy of the trained tensors up to the hook layer."""
        config = self.config
        self._views = LayerViews(
            model, hook_layer=config.hook_layer, with_reference_logits=config.kl_weight > 0
        )
        length = config.steering_coefficient if config.adaptive_scale is None else 1.0
        self._control_H = control_vector(self._views.hidden_size, coefficient=length, seed=seed)

    @property
    def frozen(self) -> list[nn.Module]:
        return [] if self._views is None else self._views.frozen

    def loss(self, model: nn.Module, batch: StepBatch) -> LossOutput:
        terms: list[Term] = []
        if self.config.forget_weight > 0:
            assert batch.forget is not None
            share = self._forget_share(batch.forget)
            terms.append(Term("forget/loss", self.config.forget_weight, share))
        terms += self._retain_terms(batch.retain)
        terms += self._retain.decouple(model, batch)
        return loss_output(terms)

    def _forget_share(self, forget: Batch) -> Tensor:
        assert self._views is not None, "prepare comes first"
        assert self._control_H is not None
        lower = self._views.lower(forget.inputs)
        counted_BT = counted_positions(forget, self.config.mask)
        self._control_H = target = self._control_H.to(lower.hidden_BTH.device)
        if self.config.adaptive_scale is not None:
            lengths_B = activation_lengths(self._views.reference(lower), counted_BT)
            target = self.config.adaptive_scale * lengths_B[:, None, None] * target
        return activation_share(
            self._views.hook(lower), target, counted_BT, global_samples=forget.global_samples
        )

    def _retain_terms(self, retain: Batch) -> list[Term]:
        assert self._views is not None, "prepare comes first"
        config = self.config
        needs_logits = config.retain_weight > 0 or config.kl_weight > 0
        if config.alpha == 0 and not needs_logits:
            return []
        lower = self._views.lower(retain.inputs)
        reference_BTH, reference_BKV = self._retain_reference(lower, retain)
        hidden_BTH = self._views.hook(lower)
        terms: list[Term] = []
        if reference_BTH is not None:
            share = activation_share(
                hidden_BTH,
                reference_BTH,
                counted_positions(retain, config.mask),
                global_samples=retain.global_samples,
            )
            terms.append(Term("retain/activation_loss", config.alpha, share))
        if needs_logits:
            logits_BKV = self._views.logits(lower, hidden_BTH, retain)
            terms += self._retain.of_logits(logits_BKV, retain, reference_BKV)
        return terms

    def _retain_reference(self, lower: Lower, retain: Batch) -> tuple[Tensor | None, Tensor | None]:
        """The reference's activations and logits, where a term needs them."""
        assert self._views is not None
        if self.config.kl_weight > 0:
            hidden_BTH, logits_BKV = self._views.reference_logits(lower, retain)
            return (hidden_BTH if self.config.alpha > 0 else None), logits_BKV
        return (self._views.reference(lower) if self.config.alpha > 0 else None), None

    def state_dict(self) -> dict[str, Tensor]:
        assert self._control_H is not None, "prepare comes first"
        return {"control_vector": self._control_H.cpu()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._control_H = state["control_vector"]


def counted_positions(batch: Batch, mask: str) -> Tensor:
    """(B, T) bool: the positions that a mask of RMUConfig lets count. Padding never does."""
    real_BT = batch.inputs["attention_mask"].bool()
    match mask:
        case "all":
            return real_BT
        case "text":
            return real_BT & ~batch.image_mask_BT
        case "answer":
            return batch.labels_BT != -100
        case _:
            raise ValueError(f"method.mask: {mask!r}; allowed: all, text, answer")
