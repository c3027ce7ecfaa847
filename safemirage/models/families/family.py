"""What a description of a family holds."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Family:
    """Names inside the model as transformers loads it, names in the public checkpoints, and how to prompt."""

    name: str
    """The family's name: the `model_type` of its models' config."""
    lmms_eval: str
    """What lmms-eval calls the loader of such models: its option `--model`."""
    language: str
    """Prefix of the language model, its output layer left out."""
    layers: str
    """Path of the decoder layers, a ModuleList."""
    head: str
    """Path of the output layer."""
    projector: str
    """What takes image features into the language model's space; it may lie within `vision`."""
    vision: str
    hub_prefixes: tuple[tuple[str, str], ...]
    """(loaded prefix, public prefix); the first that fits decides. Every parameter must fit one."""
    shared_settings: tuple[tuple[str, str], ...]
    """(name in the processor, name in the model's config) of what both files hold and must agree on."""
    chat_template: str
    """Jinja, for processors that come without one. It must close each answer with the end token."""
    supports_shared_prefix: bool = False
    """Whether the language model takes embeddings, one position a token, and full causal attention: then what prompts
    share is computed once. Without it they are answered by `generate`."""
    templates: Mapping[str, str] = field(default_factory=dict)
    """Jinja by name: the presets of `model.template`."""
    takes_square_images: bool = False
    """Whether every image becomes one square, by padding or by a centre crop: the presets of
    `model.image_preprocessing`. Families that take images as they are have no use for either."""
    patch_size_in_model: bool = False
    """Processors saved before transformers 4.46 leave patch size and feature selection to the model's config."""
    video_processor: str | None = None
    """The class of its processor's part for videos. None is ever read here, but the processor loads it."""

    def hub_name(self, name: str) -> str:
        """A parameter's name in the public layout, which transformers and vLLM both read.

        Raises:
            ValueError: the parameter belongs to no known part.
        """
        for loaded, public in self.hub_prefixes:
            if name.startswith(loaded):
                return public + name.removeprefix(loaded)
        known = ", ".join(loaded for loaded, _ in self.hub_prefixes)
        raise ValueError(f"parameter {name!r} belongs to no part of a {self.name} model: {known}")

    def in_vision_tower(self, name: str) -> bool:
        """Whether a parameter lies in the vision tower; the projector never counts as part of it."""
        return name.startswith(f"{self.vision}.") and not name.startswith(f"{self.projector}.")
