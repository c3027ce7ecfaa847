"""What a method sees of one forward pass: tensors, and the sizes of the global batch that it is a share of.

Tensor suffixes: B samples, T positions (image tokens included), V vocabulary, H hidden.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One worker's micro-batch of one set. All tensors lie on the model's device."""

    inputs: dict[str, Tensor]
    """What the model's forward takes: input_ids_BT, attention_mask_BT, pixel_values, ..."""
    labels_BT: Tensor
    """Token ids where supervised, -100 elsewhere; position t is predicted from positions < t."""
    image_mask_BT: Tensor
    """True at image tokens."""
    global_tokens: int
    """Supervised tokens of this set in the whole optimizer step: all workers, all micro-batches."""
    global_samples: int
    """Samples of this set in the whole optimizer step."""
    reference_logps_B: Tensor | None = None
    """float32: the reference model's log-probability of the supervised tokens, summed per sample, in nats."""


@dataclass(frozen=True, kw_only=True)
class StepBatch:
    """One micro-batch of an optimizer step."""

    retain: Batch
    forget: Batch | None = None
    preferred: Batch | None = None
    """The forget batch's questions with the answers to give instead, row by row beside it."""
    decouple: Batch | None = None
    """Questions as the forget set asks them, about harmless images, with ordinary answers."""
