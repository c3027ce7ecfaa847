"""Batches for the method tests, put together by hand: no processor, no files."""

from dataclasses import fields, replace

import torch

from safemirage.methods.method import Batch, StepBatch
from tests.tiny import IMAGE_TOKENS

IMAGE, PAD = 4, 3


def make_batch(
    lengths: list[int],
    answers: list[int],
    *,
    seed: int,
    total_tokens: int = 0,
    num_samples: int = 0,
) -> Batch:
    """Samples of one image, a question and an answer of given lengths, padded on the right."""
    generator = torch.Generator().manual_seed(seed)
    width = IMAGE_TOKENS + max(q + a for q, a in zip(lengths, answers, strict=True))
    ids = torch.full((len(lengths), width), PAD)
    labels = torch.full((len(lengths), width), -100)
    for row, (question, answer) in enumerate(zip(lengths, answers, strict=True)):
        end = IMAGE_TOKENS + question + answer
        ids[row, :IMAGE_TOKENS] = IMAGE
        ids[row, IMAGE_TOKENS:end] = torch.randint(
            10, 250, (question + answer,), generator=generator
        )
        labels[row, end - answer : end] = ids[row, end - answer : end]
    return Batch(
        inputs={
            "input_ids": ids,
            "attention_mask": (ids != PAD).long(),
            "pixel_values": torch.randn(len(lengths), 3, 32, 32, generator=generator),
        },
        labels_BT=labels,
        image_mask_BT=ids == IMAGE,
        global_tokens=total_tokens or sum(answers),
        global_samples=num_samples or len(answers),
    )


def select(batch: Batch, rows: slice) -> Batch:
    """Some rows of a batch; they remain a share of the whole."""
    reference = batch.reference_logps_B
    return Batch(
        inputs={name: value[rows] for name, value in batch.inputs.items()},
        labels_BT=batch.labels_BT[rows],
        image_mask_BT=batch.image_mask_BT[rows],
        global_tokens=batch.global_tokens,
        global_samples=batch.global_samples,
        reference_logps_B=None if reference is None else reference[rows],
    )


def select_step(batch: StepBatch, rows: slice) -> StepBatch:
    """The same rows of every set of a step."""
    sets = {item.name: getattr(batch, item.name) for item in fields(batch)}
    return replace(
        batch, **{name: select(part, rows) for name, part in sets.items() if part is not None}
    )
