"""Quantisation: the export in its dtype beside the same weights rounded to fewer bits.

Unlearning that moved the weights less than a rounding step is undone by rounding: with 4 bits Zhang et al. 2024
(2410.16454) measured how unlearned text came back.
"""

from dataclasses import replace

from safemirage.config.generators import TransformersConfig
from safemirage.config.probe import QuantiseConfig
from safemirage.config.weights import WeightsConfig
from safemirage.models.precision import require_quantisation
from safemirage.probes.measuring import Point


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
