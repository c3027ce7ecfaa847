"""A vision-language model in parts, each run no further and no more often than a loss needs.

    lower = views.lower(inputs)       image, embeddings and the decoder layers below the first trained one
    hidden_BTH = views.hook(lower)    on to the hook layer's output
    views.reference(lower)            the same with the initial weights
    views.logits(lower, hidden_BTH, batch)    on to the logits of what is supervised

A part is a view: a shallow copy that shares the layers' own modules, so gradients, adapters and engine hooks stay
those of the model, and the model itself is not touched.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.utils.output_capturing import maybe_install_capturing_hooks

from safemirage.config.loading.load import ConfigError
from safemirage.methods.forward import base_model, inference, supervised_positions
from safemirage.methods.method import Batch
from safemirage.models.adapter import gathered


def replace_modules(root: nn.Module, replacements: Mapping[str, nn.Module]) -> nn.Module:
    """A shallow copy of `root` in which the modules at some dotted paths are others; the empty path is `root` itself.

    Where a replaced module lies in another, it takes its place in that one's replacement. No given module is changed.
    """
    if replacements.keys() == {""}:
        return replacements[""]
    below: dict[str, dict[str, nn.Module]] = {}
    for path, module in replacements.items():
        child, _, rest = path.partition(".")
        if child:
            below.setdefault(child, {})[rest] = module
    module = replacements.get("", root)
    view = _shallow(module, children_of=module)
    for child, inner in below.items():
        view.add_module(child, replace_modules(view.get_submodule(child), inner))
    return view


def _shallow(module: nn.Module, *, children_of: nn.Module | None) -> nn.Module:
    """A copy that shares the module's tensors and has the children of some module, or none, in a table of its own.

    copy.copy shares the table of children too, and no public call gives a module another one, so this sets `_modules`
    as PyTorch 2.13 has it.
    """
    view = copy.copy(module)
    view._modules = {} if children_of is None else dict(children_of._modules)
    return view


def allow_views(model: PreTrainedModel) -> None:
    """Call once before the first view of a model runs.

    transformers puts the hooks that collect an image encoder's hidden states onto its layers at its first call, and
    remembers that on the encoder. A view has the same layers but remembers for itself: called first, it would leave each
    hook there twice, and LLaVA would then read its image features from the wrong layer.
    """
    maybe_install_capturing_hooks(model.model.get_encoder(modality="image"))


def frozen_copies(root: nn.Module, *, left_out: tuple[str, ...] = ()) -> dict[str, nn.Module]:
    """Copies of the modules that own a trained tensor, by path, without those whose path starts with one left out.

    A copy holds tensors of its own where the module does, and no children. Tied tensors stay tied.
    """
    memo: dict[int, Any] = {}
    return {
        path: _frozen_copy(module, memo)
        for path, module in root.named_modules()
        if not path.startswith(left_out)
        and any(p.requires_grad for p in module.parameters(recurse=False))
    }


def _frozen_copy(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    alone = _shallow(module, children_of=None)
    parameters = list(alone.parameters())
    with gathered(parameters):
        frozen = copy.deepcopy(alone, memo).requires_grad_(False).eval()
    # Where ZeRO-3 has parted the model, a copy is parted like it as soon as it is made.
    parted: list[Any] = [p for p in parameters if hasattr(p, "ds_id")]
    whole = [p for p in frozen.parameters() if not hasattr(p, "ds_id")]
    if parted and whole:
        parted[0].convert_to_zero_parameters(param_list=whole)
    return frozen


def with_copies(
    root: nn.Module, copies: Mapping[str, nn.Module], device: torch.device
) -> nn.Module:
    """A view of `root` with frozen copies in place, their tensors moved to `device`."""
    for module in copies.values():
        for parameter in module.parameters(recurse=False):
            if not hasattr(parameter, "ds_id"):  # else an engine moves it
                parameter.data = parameter.data.to(device)
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, buffer.to(device))
    # Made anew for each use: an engine puts its marks onto the copies after they were made.
    return replace_modules(
        root,
        {
            path: _shallow(module, children_of=root.get_submodule(path))
            for path, module in copies.items()
        },
    )


def decoder_part(decoder: nn.Module, start: int, stop: int | None) -> nn.Module:
    """Decoder layers `start` to `stop`, that one left out; from `start` on with the final norm where it is None."""
    layers = list(decoder.layers)[start:stop]  # type: ignore[arg-type]
    replacements: dict[str, nn.Module] = {"layers": nn.ModuleList(layers)}
    if stop is not None:
        replacements["norm"] = nn.Identity()
    view = replace_modules(decoder, replacements)
    types = getattr(decoder.config, "layer_types", None)
    if types is not None:
        # Qwen2-VL and its successors look a layer's kind of attention up by its place among those that run.
        config: Any = copy.copy(decoder.config)
        config.layer_types, config.num_hidden_layers = list(types[start:stop]), len(layers)
        view.config = config
    return view


@dataclass(frozen=True, kw_only=True)
class Lower:
    """What the beginning of the model made of some inputs."""

    inputs: Mapping[str, Tensor]
    hidden_BTH: Tensor
    """Output of the last layer below the first trained one, or the embeddings, image features among them."""
    call: Mapping[str, Any]
    """What the decoder is called with beside hidden states: mask, position ids (3-D in some families), ..."""
    encoder: Mapping[str, nn.Module]
    """A frozen image encoder by its path, one that remembers what it put out; none where it is trained."""


class LayerViews:
    """A model cut at the first trained decoder layer and after the hook layer.

    What nothing trained lies below runs once for the policy and the reference, without gradient and with dropout off,
    as in any frozen model. The reference is the model with its adapter off, or with the initial values of its trained
    tensors: the only weights that are held twice, and only those up to the hook layer unless its logits are asked for.
    """

    def __init__(
        self, model: nn.Module, *, hook_layer: int, with_reference_logits: bool = False
    ) -> None:
        """Call with the initial weights, before an engine takes the model.

        Raises:
            ConfigError: the model has no such decoder layer, or nothing up to it is trained.
        """
        self._adapter = model if isinstance(model, PeftModel) else None
        self._base = base_model(model)
        # Everything but the head, which alone knows of the vocabulary.
        self._inner: nn.Module = self._base.model
        allow_views(self._base)
        decoder = self._base.get_decoder()
        self._decoder_path = _path(self._inner, decoder)
        self._encoder_path = _path(self._inner, self._inner.get_encoder(modality="image"))
        self._num_kept = hook_layer + 1
        if self._num_kept > len(decoder.layers):
            raise ConfigError(
                f"method.hook_layer: {hook_layer}, but the model has {len(decoder.layers)} decoder layers, "
                f"so the last is {len(decoder.layers) - 1}"
            )
        trained = [name for name, p in self._inner.named_parameters() if p.requires_grad]
        self._encoder_is_frozen = not any(n.startswith(f"{self._encoder_path}.") for n in trained)
        self._num_lower = self._count_lower(trained)
        if self._num_lower == self._num_kept:
            raise ConfigError(
                f"method.hook_layer: {hook_layer}, but model.trainable lets nothing change up to that layer, so its "
                "output cannot be steered; train one of its tensors or of those below"
            )
        self._frozen: dict[str, nn.Module] = {}
        self._frozen_head: nn.Module | None = None
        # With an adapter the initial model is the same one with its adapter off, and nothing is copied.
        if self._adapter is None:
            self._frozen = self._frozen_copies(whole=with_reference_logits)
            if with_reference_logits and any(p.requires_grad for p in self._head.parameters()):
                self._frozen_head = _frozen_copy(self._head, {})

    @property
    def hidden_size(self) -> int:
        return int(self._base.get_decoder().config.get_text_config().hidden_size)

    @property
    def frozen(self) -> list[nn.Module]:
        """The copies that are held beside the model."""
        head = [] if self._frozen_head is None else [self._frozen_head]
        return [*self._frozen.values(), *head]

    @property
    def reference_bytes(self) -> int:
        """What the initial values that are held beside the model take."""
        return sum(p.nbytes for module in self.frozen for p in module.parameters(recurse=False))

    def lower(self, inputs: Mapping[str, Tensor]) -> Lower:
        """Everything below the first trained decoder layer. Without gradient where nothing of it is trained."""
        path = self._encoder_path
        frozen = self._encoder_is_frozen
        encoder = {path: _remembering(self._inner.get_submodule(path))} if frozen else {}
        # Where the encoder or the projector is trained, gradients must come this far.
        with nullcontext() if self._num_lower is None else inference(self._base):
            hidden_BTH, call = self._enter(self._inner, inputs, encoder)
            if self._num_lower:
                hidden_BTH = _run(self._base.get_decoder(), 0, self._num_lower, call, hidden_BTH)
        return Lower(inputs=inputs, hidden_BTH=hidden_BTH, call=call, encoder=encoder)

    def hook(self, lower: Lower) -> Tensor:
        """(B, T, H): output of the hook layer."""
        return self._to_hook(self._base.get_decoder(), lower.call, lower.hidden_BTH)

    def reference(self, lower: Lower) -> Tensor:
        """(B, T, H): output of the hook layer with the weights the model had at the start, without gradient."""
        with self._initial(lower.hidden_BTH.device) as inner:
            decoder, lower = self._reference_start(inner, lower)
            return self._to_hook(decoder, lower.call, lower.hidden_BTH)

    def reference_logits(self, lower: Lower, batch: Batch) -> tuple[Tensor, Tensor]:
        """`reference` and the logits (B, K, V) that come of it at the batch's supervised positions; only of views
        made `with_reference_logits`."""
        head = self._head if self._frozen_head is None else self._frozen_head
        with self._initial(lower.hidden_BTH.device) as inner:
            decoder, lower = self._reference_start(inner, lower)
            hidden_BTH = self._to_hook(decoder, lower.call, lower.hidden_BTH)
            if not any(hasattr(p, "ds_id") for p in head.parameters()):
                head = head.to(hidden_BTH.device)
            return hidden_BTH, self._finish(decoder, head, lower.call, hidden_BTH, batch)

    def logits(self, lower: Lower, hidden_BTH: Tensor, batch: Batch) -> Tensor:
        """(B, K, V): logits at the batch's supervised positions, from the output of the hook layer on."""
        return self._finish(self._base.get_decoder(), self._head, lower.call, hidden_BTH, batch)

    @property
    def _head(self) -> nn.Module:
        head = self._base.get_output_embeddings()
        assert isinstance(head, nn.Module)
        return head

    def _finish(
        self,
        decoder: nn.Module,
        head: nn.Module,
        call: Mapping[str, Any],
        hidden_BTH: Tensor,
        batch: Batch,
    ) -> Tensor:
        final_BTH = _run(decoder, self._num_kept, None, call, hidden_BTH)
        # The vocabulary is large and few positions are supervised: logits are made for those alone.
        positions_K, _ = supervised_positions(batch.labels_BT)
        logits_BKV: Tensor = head(final_BTH[:, positions_K])
        return logits_BKV

    @contextmanager
    def _initial(self, device: torch.device) -> Iterator[nn.Module]:
        """The inner model with its initial weights, without gradient and with dropout off."""
        adapter = self._adapter.disable_adapter() if self._adapter is not None else nullcontext()
        with inference(self._base), adapter:
            yield with_copies(self._inner, self._frozen, device)

    def _reference_start(self, inner: nn.Module, lower: Lower) -> tuple[nn.Module, Lower]:
        """The reference's decoder, and what it begins with: the policy's own where nothing below is trained."""
        if self._num_lower is None:
            hidden_BTH, call = self._enter(inner, lower.inputs, lower.encoder)
            lower = replace(lower, hidden_BTH=hidden_BTH, call=call)
        return inner.get_submodule(self._decoder_path), lower

    def _enter(
        self, inner: nn.Module, inputs: Mapping[str, Tensor], encoder: Mapping[str, nn.Module]
    ) -> tuple[Tensor, dict[str, Any]]:
        """What the decoder is called with: embeddings, and the rest by name."""
        call: dict[str, Any] = {}

        def keep(**given: Any) -> BaseModelOutputWithPast:
            call.update(given)
            return BaseModelOutputWithPast(last_hidden_state=given["inputs_embeds"])

        # The decoder is replaced by a stop that takes down what it was called with.
        entry = _with_forward(inner.get_submodule(self._decoder_path), keep)
        view = replace_modules(inner, {**encoder, self._decoder_path: entry})
        # No layer runs here: embeddings, image features, masks and positions are all that is made.
        view(**inputs, use_cache=False)
        return call.pop("inputs_embeds"), call

    def _to_hook(self, decoder: nn.Module, call: Mapping[str, Any], hidden_BTH: Tensor) -> Tensor:
        return _run(decoder, self._num_lower or 0, self._num_kept, call, hidden_BTH)

    def _count_lower(self, trained: list[str]) -> int | None:
        """Decoder layers below the first trained one; None where something before the layers is trained."""
        prefix = f"{self._decoder_path}.layers."
        end = f"{self._decoder_path}.norm."
        if not all(name.startswith((prefix, end)) for name in trained):
            return None
        numbers = [
            int(n.removeprefix(prefix).split(".")[0]) for n in trained if n.startswith(prefix)
        ]
        return min([*numbers, self._num_kept])

    def _frozen_copies(self, *, whole: bool) -> dict[str, nn.Module]:
        """Copies of the modules that own a trained tensor, by path; those up to the hook layer unless `whole`."""
        numbers = range(self._num_kept, len(self._base.get_decoder().layers))
        above = tuple(f"{self._decoder_path}.layers.{number}." for number in numbers)
        left_out = () if whole else (*above, f"{self._decoder_path}.norm")
        return frozen_copies(self._inner, left_out=left_out)


def _run(
    decoder: nn.Module, start: int, stop: int | None, call: Mapping[str, Any], hidden_BTH: Tensor
) -> Tensor:
    """(B, T, H): what a part of the decoder makes of hidden states, called as the whole would be."""
    call = {**call, "inputs_embeds": hidden_BTH}
    if call.get("deepstack_visual_embeds") is not None:
        # Qwen3-VL adds one tensor of image features after each of its first layers.
        call["deepstack_visual_embeds"] = call["deepstack_visual_embeds"][start:stop]
    output_BTH: Tensor = decoder_part(decoder, start, stop)(**call).last_hidden_state
    return output_BTH


def _with_forward(module: nn.Module, forward: Callable[..., Any]) -> nn.Module:
    """A view of a module that does something else when it is called; its attributes and hooks are the module's."""
    view = replace_modules(module, {})
    view.forward = forward
    return view


def _remembering(module: nn.Module) -> nn.Module:
    """A view of a frozen module that runs at its first call; later ones, on the same inputs, get the same output."""
    known: list[Any] = []

    def forward(*args: Any, **kwargs: Any) -> Any:
        if not known:
            known.append(module.forward(*args, **kwargs))
        return known[0]

    return _with_forward(module, forward)


def _path(root: nn.Module, module: nn.Module) -> str:
    return next(name for name, child in root.named_modules() if child is module)
