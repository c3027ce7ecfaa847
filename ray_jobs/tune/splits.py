"""The splits of a search: what it trains on, what it chooses on, and what the chosen point is scored on share no picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from safemirage.config.data import DataConfig
from safemirage.config.loading.identity import file_digest
from safemirage.config.loading.load import ConfigError
from safemirage.data.llava import read_llava
from safemirage.data.records import SkipBad
from safemirage.evaluation.types import Sample


def check_disjoint(suites: Mapping[str, Sequence[Sample]], data: DataConfig) -> None:
    """Refuses suites that share a picture with each other or with the training files. A question without a picture counts
    as its text.

    Args:
        suites: samples by their key in the search file.

    Raises:
        ConfigError: names both splits and how much they share.
    """
    splits = {key: _of_suite(samples) for key, samples in suites.items()}
    splits |= {f"data.{name}": shown for name, shown in _trained_on(data).items()}
    names = list(splits)
    problems = [
        f"{name}: {len(common)} of its pictures stand in {other} too; choose and report on pictures that nothing else has "
        "seen (`safemirage prepare --selection` sets some aside)"
        for place, name in enumerate(names)
        for other in names[place + 1 :]
        if name in suites and (common := splits[name] & splits[other])
    ]
    if problems:
        raise ConfigError("\n".join(problems))


def _of_suite(samples: Sequence[Sample]) -> set[str]:
    return {
        f"question: {sample.question}" if sample.image is None else sample.image.digest
        for sample in samples
    }


def _trained_on(data: DataConfig) -> dict[str, set[str]]:
    """The pictures of each training file, and the questions of records that have none."""
    files = data.paths()
    folder = files.pop("image_folder", None)
    known: dict[Path, str] = {}
    shown = {}
    skip = SkipBad(data.skip_bad)
    for name, file in files.items():
        # Records that cannot be used are the training's to name.
        if not Path(file).is_file():
            continue
        found = set()
        for record in read_llava(file, folder, skip=skip):
            for image in record.images:
                known[image.path] = known.get(image.path) or file_digest(image.path)
                found.add(known[image.path])
            if not record.images:
                found |= {f"question: {question}" for question, _ in record.turns}
        shown[name] = found
    return shown
