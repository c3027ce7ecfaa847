"""Probes of an export's weights: its adapter at part of its strength and off, and its weights in fewer bits.

Whoever has the folder of a LoRA export has its base too. What stays of the unlearning at strength 0 is what the base did
before; the curve between says how evenly the change is spread over the way from base to export. Unlearning that moved the
weights less than a rounding step is undone by rounding: with 4 bits Zhang et al. 2024 (2410.16454) measured how unlearned
text came back.
"""

from dataclasses import replace
from pathlib import Path

from safemirage.config.evaluate import EvaluateConfig
from safemirage.config.generators import TransformersConfig
from safemirage.config.loading.load import ConfigError
from safemirage.config.probe import AdapterProbeConfig, QuantiseConfig
from safemirage.config.weights import WeightsConfig
from safemirage.models.manifest import MANIFEST_NAME, is_adapter, read_manifest
from safemirage.models.precision import require_quantisation
from safemirage.probes.measuring import Point


def adapter_points(config: AdapterProbeConfig) -> list[Point]:
    """The adapter on, then weaker and weaker (or stronger than trained), then off.

    Raises:
        ConfigError: the export has no adapter.
        ExportError: the export has no manifest, or one that cannot be read.
    """
    model = config.evaluate.model
    assert isinstance(model, TransformersConfig), "the config checks it"
    _require_adapter(Path(model.path).expanduser())
    scales = [1.0, *sorted(config.scales, reverse=True), 0.0]
    return [_point(config.evaluate, model, scale) for scale in scales]


def _point(evaluate: EvaluateConfig, model: TransformersConfig, scale: float) -> Point:
    named = {1.0: (evaluate.name, "as trained"), 0.0: (f"{evaluate.name}-adapter-off", "off")}
    name, says = named.get(
        scale, (f"{evaluate.name}-adapter-{scale:g}", f"at {scale:g} of its strength")
    )
    changed = replace(model, weights=WeightsConfig(adapter_scale=scale))
    return Point(
        evaluate=replace(evaluate, name=name, model=changed),
        says=f"adapter {says}",
        settings={"adapter_scale": scale},
    )


def _require_adapter(folder: Path) -> None:
    if is_adapter(folder):
        return
    key = "evaluate.model.path"
    if is_adapter(folder.parent):
        raise ConfigError(
            f"{key}: {str(folder)!r} holds merged weights, in which the adapter cannot be told from its base any "
            f"more; name the adapter's export: {str(folder.parent)!r}"
        )
    way_out = "name the export of a run with model.lora"
    if (folder / MANIFEST_NAME).is_file() and (base := read_manifest(folder).base) is not None:
        way_out += f", or evaluate its base {base.path!r} by the same file and put the two side by side: safemirage compare"
    raise ConfigError(f"{key}: {str(folder)!r} has no adapter that could be taken off; {way_out}")


def quantise_points(config: QuantiseConfig) -> list[Point]:
    """The export as it is, then its variants in the config's order.

    Raises:
        ConfigError: this machine cannot do one of them.
    """
    evaluate, model = config.evaluate, config.evaluate.model
    assert isinstance(model, TransformersConfig), "the config checks it"
    points = [Point(evaluate=evaluate, says=model.dtype, settings={"quantisation": None})]
    for variant in config.variants:
        require_quantisation(variant, model.device)
        changed = replace(model, weights=WeightsConfig(quantisation=variant))
        named = replace(evaluate, name=f"{evaluate.name}-{variant.title}", model=changed)
        settings = {"quantisation": variant.title}
        points.append(Point(evaluate=named, says=variant.title, settings=settings))
    return points
