"""The sets of a run, tokenised: the retain set, and those that its method draws batches of."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from safemirage.config.method import needed_sets
from safemirage.config.train import TrainConfig
from safemirage.data.llava import LlavaRecord, read_llava
from safemirage.data.preferred import draw_preferred, read_preferred
from safemirage.data.records import SkipBad
from safemirage.models.loading import LoadedModel
from safemirage.models.prompts import Prompter
from safemirage.training.samples.batches import SampleSet, tokenize
from safemirage.training.samples.order import draw_subset

ORDERS: Mapping[str, str] = {
    "retain": "retain",
    "forget": "forget",
    "preferred": "forget",
    "decouple": "decouple",
}
"""The global order that each set is drawn in, by its name: preferred answers stand beside their forget records."""


@dataclass(kw_only=True)
class TrainingSets:
    by_name: dict[str, SampleSet]
    """Names are those of StepBatch's fields; `retain` is always there."""
    reference_logps: dict[str, Tensor] = field(default_factory=dict)
    """Log-probabilities (N,) of each set's samples under the initial weights, by its name."""

    @property
    def retain(self) -> SampleSet:
        return self.by_name["retain"]

    @property
    def num_truncated(self) -> int:
        """Samples that lost their end to `model.max_length`."""
        return sum(samples.num_truncated for samples in self.by_name.values())


def read_sets(config: TrainConfig, loaded: LoadedModel) -> TrainingSets:
    """Reads and tokenises every set that the run's method needs.

    Raises:
        ConfigError, DataError, SampleError: a file that cannot be used.
    """
    prompter = Prompter(loaded.processor)
    length = config.model.max_length
    return TrainingSets(
        by_name={
            name: tokenize(records, prompter, max_length=length)
            for name, records in _records(config).items()
        }
    )


def _records(config: TrainConfig) -> dict[str, list[LlavaRecord]]:
    data, needed = config.data, needed_sets(config.method)
    skip = SkipBad(data.skip_bad)
    retain = read_llava(data.retain, data.image_folder, skip=skip)
    chosen = draw_subset(len(retain), data.retain_limit, config.seed)
    records = {"retain": [retain[index] for index in chosen]}
    if "forget" in needed:
        assert data.forget is not None
        records["forget"] = read_llava(data.forget, data.image_folder, skip=skip)
    if "preferred" in needed:
        records["preferred"] = _preferred(config, records["forget"])
    if "decouple" in needed:
        assert data.decouple is not None
        records["decouple"] = read_llava(data.decouple, data.image_folder, skip=skip)
    return records


def _preferred(config: TrainConfig, forget: list[LlavaRecord]) -> list[LlavaRecord]:
    data = config.data
    if data.preferred is not None:
        return read_preferred(data.preferred, data.image_folder, forget=forget)
    assert data.preferred_answers is not None
    return draw_preferred(forget, data.preferred_answers, seed=config.seed)
