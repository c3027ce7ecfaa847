"""A search made ready: its train file read, and every path and value of its space known to fit that file."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from safemirage.config.loading.load import (
    ConfigError,
    apply_overrides,
    build_config,
    load_config,
    read_tree,
    run_file,
    set_path,
    to_tree,
)
from safemirage.config.search import DomainConfig, Point, SearchConfig
from safemirage.config.train import TrainConfig


@dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """A search whose every point is known to be a valid train config."""

    config: SearchConfig
    base: TrainConfig
    """The train file with `overrides`, without a point."""

    def trial(self, point: Point) -> TrainConfig:
        """The train config of one point, at the first of the seeds."""
        return train_config(self.base, point)

    def runs(self, config: TrainConfig) -> list[TrainConfig]:
        """A train config at each seed of the search."""
        return [replace(config, seed=seed) for seed in self.config.seeds or (config.seed,)]


def load_search(path: Path | str, overrides: Sequence[str] = ()) -> SearchPlan:
    """Reads a search file and the train file it names, and checks that the space fits.

    Raises:
        ConfigError: either file is wrong, or a path or value of `space` or `warm_start` is no valid train config.
    """
    config = load_config(SearchConfig, path, overrides)
    base = run_file(config.base, beside=run_file(path).parent)
    return plan_search(replace(config, base=os.path.abspath(base)), source=str(path))


def plan_search(config: SearchConfig, *, source: str = "search") -> SearchPlan:
    """The plan of a config whose `base` is an absolute path. Raises ConfigError as `load_search` does."""
    base = Path(config.base)
    if not base.is_absolute():
        raise ConfigError(
            f"{source}: base: {config.base!r} is relative; load the search from its file"
        )
    try:
        tree = apply_overrides(read_tree(base), config.overrides)
        train = build_config(TrainConfig, tree, source=str(base))
    except ConfigError as error:
        raise ConfigError(f"{source}: base: {error}") from error
    if config.seeds:
        train = replace(train, seed=config.seeds[0])
    if train.watch is not None:
        raise ConfigError(
            f"{source}: base: watch: a search measures its trials itself; add watch=null to overrides"
        )
    problems = [
        f"{source}: {problem}"
        for key, domain in config.space.items()
        for problem in _misfits(train, key, domain)
    ]
    if not problems:
        problems = [f"{source}: {problem}" for problem in _bad_points(train, config)]
    if problems:
        raise ConfigError("\n".join(problems))
    return SearchPlan(config=config, base=train)


def train_config(base: TrainConfig, point: Point) -> TrainConfig:
    """`base` with the values of a point. Raises ConfigError when that is no valid config."""
    tree = to_tree(base)
    for key, value in point.items():
        set_path(tree, key, value)
    return build_config(TrainConfig, tree, source="trial")


def point_overrides(point: Point) -> list[str]:
    """A point as `a.b=c`, to be given to the command line: JSON scalars are YAML."""
    return [f"{key}={json.dumps(value)}" for key, value in sorted(point.items())]


def _misfits(base: TrainConfig, key: str, domain: DomainConfig) -> list[str]:
    """What is wrong with one path of the space, the others being as in the train file."""
    if not _counts(base, key):
        return [f"space.{key}: cannot change the result of a run, so there is nothing to search"]
    problems = []
    for value in domain.corners:
        try:
            train_config(base, {key: value})
        except ConfigError as error:
            problems.append(f"space.{key}: {error}")
    return problems


def _bad_points(base: TrainConfig, config: SearchConfig) -> list[str]:
    """Settings that fit alone may not fit together: tries the two ends of the space and the warm start."""
    ends = {
        "lowest": {key: domain.corners[0] for key, domain in config.space.items()},
        "highest": {key: domain.corners[-1] for key, domain in config.space.items()},
    }
    points = {f"space ({end} values)": point for end, point in ends.items()}
    points |= {f"warm_start.{index}": dict(point) for index, point in enumerate(config.warm_start)}
    problems = []
    for where, point in points.items():
        try:
            train_config(base, point)
        except ConfigError as error:
            problems.append(f"{where}: {error}")
    return problems


def _counts(config: Any, key: str) -> bool:
    """Whether a dotted path belongs to the identity. A path that does not exist is left to the validation."""
    node = config
    for part in key.split("."):
        if not is_dataclass(node):
            return True
        found = {item.name: item for item in fields(node)}.get(part)
        if found is None:
            return True
        if found.metadata.get("identity") is False:
            return False
        node = getattr(node, part)
    return True
