"""What a description of a family holds."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from safemirage.config.loading.load import ConfigError


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
    alike_in_vllm: bool = True
    """Whether vLLM was seen to give the text that transformers gives; vLLM is refused where it was not."""
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

    def stored_names(self, name: str) -> tuple[str, ...]:
        """What a parameter may be called in a file: as in the public layout, as in the model, or without its first prefix.

        Asked in this direction because several parameters may have one public prefix: of CLIP's tower transformers drops
        the inner one on load, and which of the two a model has is not seen in the file.
        """
        return self.hub_name(name), name, name.removeprefix("model.")

    def loaded_name(self, name: str) -> str:
        """A parameter's name inside the model, given its name in a file, in the public layout or the model's own."""
        if any(name.startswith(loaded) for loaded, _ in self.hub_prefixes):
            return name
        for loaded, public in self.hub_prefixes:
            if name.startswith(public):
                return loaded + name.removeprefix(public)
        # Some files leave out no more than the model's own prefix.
        return f"model.{name}"

    def in_vision_tower(self, name: str) -> bool:
        """Whether a parameter lies in the vision tower; the projector never counts as part of it."""
        return name.startswith(f"{self.vision}.") and not name.startswith(f"{self.projector}.")


def trainable_names(names: list[str], family: Family, patterns: tuple[str, ...]) -> set[str]:
    """The parameters that a full training changes: those a pattern is found in; all but the vision tower with none.

    Raises:
        ConfigError: a pattern is no regular expression, or fits nothing.
    """
    if not patterns:
        # As the original trains: the vision tower stays frozen.
        return {name for name in names if not family.in_vision_tower(name)}
    chosen: set[str] = set()
    for pattern in patterns:
        text = pattern.replace("{language}", re.escape(family.language))
        text = text.replace("{projector}", re.escape(family.projector))
        try:
            found = {name for name in names if re.search(text, name)}
        except re.error as error:
            raise ConfigError(
                f"model.trainable: {pattern!r} is no regular expression: {error}"
            ) from error
        if not found:
            raise ConfigError(
                f"model.trainable: {pattern!r} fits no parameter; names look like {names[0]!r} and {names[-1]!r}, "
                "and {language} and {projector} stand for the family's prefixes"
            )
        chosen |= found
    return chosen
