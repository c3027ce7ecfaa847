"""LLaVA records as token ids and labels, and batches of them as a method sees them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from safemirage.config.loading.identity import digest_of, file_digest
from safemirage.data.llava import LlavaRecord
from safemirage.methods.method import Batch
from safemirage.models.images import ImageError, image_size, read_image
from safemirage.models.prompts import IGNORED, Prompter, PromptError, cat_pixels
from safemirage.training.job import SampleError

_SHOWN_IDS = 20
_PIXEL_CACHE_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One tokenised conversation, image tokens expanded."""

    id: str
    ids: tuple[int, ...]
    labels: tuple[int, ...]
    """The token id where it is supervised, -100 elsewhere."""
    images: tuple[Path, ...]
    """The images, in the order in which the conversation shows them."""
    truncated: bool

    @property
    def num_supervised(self) -> int:
        """Labels that a causal model is asked to predict: the first position has nothing before it."""
        return sum(label != IGNORED for label in self.labels[1:])


@dataclass
class SampleSet:
    """A set of samples in file order, with their images."""

    samples: tuple[Sample, ...]
    prompter: Prompter
    _pixels: dict[Path, dict[str, Tensor]] = field(default_factory=dict, init=False, repr=False)
    _pixel_bytes: int = field(default=0, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each sample, image tokens included."""
        return tuple(len(sample.ids) for sample in self.samples)

    @property
    def num_truncated(self) -> int:
        """Samples that lost their end to `max_length`."""
        return sum(sample.truncated for sample in self.samples)

    @cached_property
    def sample_digests(self) -> tuple[str, ...]:
        """SHA-256 of each sample's tokens, labels, image files and preprocessing, in hex: what its log-probability
        depends on."""
        # Each image once, however many samples show it.
        files = {image: file_digest(image) for sample in self.samples for image in sample.images}
        pixels = self.prompter.pixels_digest
        return tuple(
            digest_of([s.ids, s.labels, [[files[image], pixels] for image in s.images]])
            for s in self.samples
        )

    @cached_property
    def digest(self) -> str:
        """SHA-256 over all samples in order, in hex."""
        return hashlib.sha256("\n".join(self.sample_digests).encode()).hexdigest()

    def num_tokens(self, indices: Sequence[int]) -> int:
        """Supervised tokens of these samples; of a step's global batch it needs no communication."""
        return sum(self._supervised[index] for index in indices)

    def batch(
        self,
        indices: Sequence[int],
        *,
        global_indices: Sequence[int],
        device: torch.device | str = "cpu",
        reference_logps_B: Tensor | None = None,
    ) -> Batch:
        """A micro-batch on `device`; `global_indices` are all samples of the step, on every worker."""
        samples = [self.samples[index] for index in indices]
        images = [self._image(image) for sample in samples for image in sample.images]
        # A set without any image never runs the vision tower, on no worker.
        blank = self._blank if self._has_images and not images else None
        inputs, labels_BT, image_mask_BT = _collate(samples, images, self.prompter, blank)
        inputs |= self.prompter.token_types(inputs["input_ids"])
        return Batch(
            inputs={name: tensor.to(device) for name, tensor in inputs.items()},
            labels_BT=labels_BT.to(device),
            image_mask_BT=image_mask_BT.to(device),
            global_tokens=self.num_tokens(global_indices),
            global_samples=len(global_indices),
            reference_logps_B=None if reference_logps_B is None else reference_logps_B.to(device),
        )

    def prompt(self, index: int, *, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """The forward's inputs of one sample up to its first answer: (1, T) ids and mask, its image's pixels."""
        batch = self.batch([index], global_indices=[index], device=device)
        shape = batch.labels_BT.shape
        end = int((batch.labels_BT[0] != IGNORED).nonzero()[0])
        return {
            name: tensor[:, :end] if tensor.shape == shape else tensor
            for name, tensor in batch.inputs.items()
        }

    def answer(self, index: int) -> str:
        """What is supervised of a sample, as text."""
        labels = self.samples[index].labels
        return self.prompter.decode([label for label in labels if label != IGNORED])

    @cached_property
    def _supervised(self) -> tuple[int, ...]:
        return tuple(sample.num_supervised for sample in self.samples)

    @cached_property
    def _has_images(self) -> bool:
        return any(sample.images for sample in self.samples)

    @cached_property
    def _blank(self) -> "BlankImage":
        size = next(image_size(image) for sample in self.samples for image in sample.images)
        return BlankImage(
            pixels=self.prompter.pixels(Image.new("RGB", size)),
            num_tokens=self.prompter.num_image_tokens(size),
        )

    def _image(self, path: Path) -> dict[str, Tensor]:
        if path in self._pixels:
            return self._pixels[path]
        try:
            pixels = self.prompter.pixels(read_image(path))
        except PromptError as error:  # an image of its size could be prepared when the run began
            raise PromptError(f"{path}: {error}") from error
        size = sum(tensor.nbytes for tensor in pixels.values())
        # Nothing is ever thrown out: a pass goes over all images, so the oldest is the next to be needed.
        if self._pixel_bytes + size <= _PIXEL_CACHE_BYTES:
            self._pixels[path] = pixels
            self._pixel_bytes += size
        return pixels


@dataclass(frozen=True, kw_only=True)
class BlankImage:
    """An image that a batch without images shows to the vision tower behind its padding.

    ZeRO-3 gathers weights when a module runs, so all workers must run the same modules: one whose micro-batch
    happens to be text only would leave the others waiting. Nothing attends to padding, so no result changes.
    """

    pixels: dict[str, Tensor]
    num_tokens: int


def tokenize(records: Sequence[LlavaRecord], prompter: Prompter, *, max_length: int) -> SampleSet:
    """Whole conversations as samples: answers and the end token after each are supervised.

    Raises:
        SampleError: samples whose image cannot be read, whose image tokens alone pass `max_length`, or which have
            nothing supervised left; every one is named.
    """
    samples, problems = [], []
    # Headers are read once an image; the same image often stands in several records.
    size_of = lru_cache(maxsize=None)(image_size)
    for record in records:
        try:
            images = [(image.turn, size_of(image.path)) for image in record.images]
            samples.append(_sample(record, prompter, max_length, images=images))
        except (PromptError, ImageError) as error:
            problems.append(f"{record.id}: {error}")
    if problems:
        more = f"\n  and {len(problems) - _SHOWN_IDS} more" if len(problems) > _SHOWN_IDS else ""
        listed = "\n  ".join(problems[:_SHOWN_IDS])
        raise SampleError(f"{len(problems)} record(s) cannot be trained on:\n  {listed}{more}")
    return SampleSet(samples=tuple(samples), prompter=prompter)


def _sample(
    record: LlavaRecord,
    prompter: Prompter,
    max_length: int,
    *,
    images: Sequence[tuple[int, tuple[int, int]]],
) -> Sample:
    tokens = prompter.conversation(record.turns, images=images)
    ids, labels = tokens.ids[:max_length], tokens.labels[:max_length]
    if prompter.image_token_id in tokens.ids[max_length:]:
        raise PromptError(
            f"model.max_length={max_length} would cut into its image tokens; raise it"
        )
    # Position 0 is predicted from nothing, so a label there supervises nothing.
    if all(label == IGNORED for label in labels[1:]):
        raise PromptError(f"no supervised token within model.max_length={max_length}")
    return Sample(
        id=record.id,
        ids=ids,
        labels=labels,
        images=tuple(image.path for image in record.images),
        truncated=len(tokens.ids) > max_length,
    )


def _collate(
    samples: Sequence[Sample],
    images: Sequence[dict[str, Tensor]],
    prompter: Prompter,
    blank: BlankImage | None,
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """The forward's inputs, labels and image mask, padded on the right, on the CPU; `images` are those of all samples, in
    order."""
    longest = max(len(sample.ids) for sample in samples)
    extra = blank.num_tokens if blank is not None else 0
    shape = (len(samples), longest + extra)
    input_ids_BT = torch.full(shape, prompter.pad_token_id)
    labels_BT = torch.full(shape, IGNORED)
    attention_mask_BT = torch.zeros(shape, dtype=torch.long)
    for row, sample in enumerate(samples):
        length = len(sample.ids)
        input_ids_BT[row, :length] = torch.tensor(sample.ids)
        labels_BT[row, :length] = torch.tensor(sample.labels)
        attention_mask_BT[row, :length] = 1
    # Before a blank image adds tokens, which are no image of the sample.
    image_mask_BT = input_ids_BT == prompter.image_token_id
    inputs = {"input_ids": input_ids_BT, "attention_mask": attention_mask_BT}
    if blank is not None:
        input_ids_BT[0, longest:] = prompter.image_token_id
        inputs |= blank.pixels
    elif images:
        inputs |= cat_pixels(images)
    return inputs, labels_BT, image_mask_BT
