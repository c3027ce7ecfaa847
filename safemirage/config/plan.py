"""A search made ready: its train file read, and every path and value of its space known to fit that file."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import islice
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
from safemirage.config.search import DomainConfig, GridConfig, Point, SearchConfig, Value
from safemirage.config.train import TrainConfig

Choose = Callable[[str, DomainConfig], Value]
"""Takes a value of a path's domain."""
_MOST_VARIANTS = 256
"""Sets of conditions that a space is checked under."""
_MOST_GRID_POINTS = 10_000


@dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """A search whose every point is known to be a valid train config."""

    config: SearchConfig
    base: TrainConfig
    """The train file with `overrides`, without a point."""

    def trial(self, point: Point) -> TrainConfig:
        """The train config of one point, at the first of the seeds."""
        return train_config(self.base, point)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that every point is trained at."""
        return self.config.seeds or (self.base.seed,)

    def point(self, choose: Choose) -> dict[str, Value]:
        """A point: in the space's order, a value for each path that applies with the values before it."""
        tree, point = to_tree(self.base), {}
        for key, domain in self.config.space.items():
            if applies(domain, tree):
                point[key] = choose(key, domain)
                set_path(tree, key, to_tree(point[key]))
        return point

    @property
    def queue(self) -> tuple[Point, ...]:
        """The points that are tried first: the warm start, then the grid where there is one."""
        sampler = self.config.sampler
        if not isinstance(sampler, GridConfig):
            return self.config.warm_start
        grid = combinations(self.base, self.config.space, lambda item: item.grid(sampler.levels))
        return (*self.config.warm_start, *islice(grid, _MOST_GRID_POINTS + 1))

    @property
    def trials(self) -> int | None:
        """How many points are tried; None: as many as the budget allows."""
        if not isinstance(self.config.sampler, GridConfig):
            return self.config.trials
        return min(self.config.trials or _MOST_GRID_POINTS, len(self.queue))


def applies(domain: DomainConfig, tree: Any) -> bool:
    """Whether a domain's `when` holds in a train file's tree."""
    for path, values in domain.when.items():
        node: Any = tree
        for part in path.split("."):
            if not isinstance(node, dict) or part not in node:
                return False
            node = node[part]
        # As JSON, so that true is not 1 and a list equals the tuple of a config.
        if json.dumps(node) not in map(json.dumps, values):
            return False
    return True


def combinations(
    base: TrainConfig,
    space: Mapping[str, DomainConfig],
    values: Callable[[DomainConfig], Sequence[Value]],
) -> Iterator[Point]:
    """Every combination of some values of each domain; paths that do not apply are left out."""
    domains = list(space.items())

    def walk(index: int, tree: Any, point: Point) -> Iterator[Point]:
        if index == len(domains):
            yield point
            return
        key, domain = domains[index]
        if not applies(domain, tree):
            yield from walk(index + 1, tree, point)
            return
        for value in values(domain):
            below = deepcopy(tree)
            set_path(below, key, to_tree(value))
            yield from walk(index + 1, below, {**point, key: value})

    return walk(0, to_tree(base), {})


def load_search(path: Path | str, overrides: Sequence[str] = ()) -> SearchPlan:
    """Reads a search file and the train file it names, and checks that the space fits.

    Raises:
        ConfigError: either file is wrong, or a path or value of `space` or `warm_start` is no valid train config.
    """
    config, source = load_config(SearchConfig, path, overrides), str(path)
    base = Path(os.path.abspath(run_file(config.base, beside=run_file(path).parent)))
    config = replace(config, base=str(base))
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
    plan = SearchPlan(config=config, base=train)
    # Each check builds on what the one before has found to be sound.
    for check in (_bad_paths, _misfits, _bad_points):
        if problems := check(plan):
            raise ConfigError("\n".join(f"{source}: {problem}" for problem in problems))
    return plan


def train_config(base: TrainConfig, point: Point) -> TrainConfig:
    """`base` with the values of a point. Raises ConfigError when that is no valid config."""
    tree = to_tree(base)
    for key, value in sorted(point.items()):  # a branch comes before what is in it
        set_path(tree, key, to_tree(value))
    return build_config(TrainConfig, tree, source="trial")


def point_overrides(point: Point) -> list[str]:
    """A point as `a.b=c`, to be given to the command line in this order: JSON is YAML."""
    return [f"{key}={json.dumps(value)}" for key, value in sorted(point.items())]


def _bad_paths(plan: SearchPlan) -> list[str]:
    """Paths that change nothing, or stand above one that decides about them."""
    keys, problems = list(plan.config.space), []
    for place, key in enumerate(keys):
        if not _counts(plan.base, key):
            problems.append(
                f"space.{key}: cannot change the result of a run, so there is nothing to search"
            )
        problems += [
            f"space.{key}: depends on space.{later}; move it below that"
            for later in keys[place + 1 :]
            if key.startswith(f"{later}.")
            or any(_overlap(path, later) for path in plan.config.space[key].when)
        ]
    return problems


def _overlap(one: str, other: str) -> bool:
    """Whether one of both paths is the other, or a part of it."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def _misfits(plan: SearchPlan) -> list[str]:
    """What is wrong with each path alone, the others being as in the train file, under every set of conditions."""
    space = plan.config.space
    conditions = {path for domain in space.values() for path in domain.when}
    deciding = {
        key: domain
        for key, domain in space.items()
        if any(_overlap(key, path) for path in conditions)
    }
    problems: dict[str, None] = {}
    met = set()
    variants = combinations(plan.base, deciding, lambda domain: domain.corners)
    for variant in islice(variants, _MOST_VARIANTS):
        tree = to_tree(plan.base)
        for key, value in variant.items():
            set_path(tree, key, to_tree(value))
        for key, domain in space.items():
            if applies(domain, tree):
                met.add(key)
                for value in [variant[key]] if key in variant else domain.corners:
                    if wrong := _wrong(plan, {**variant, key: value}):
                        problems[f"space.{key}: {wrong}"] = None
    for key, domain in space.items():
        if key not in met:
            problems[f"space.{key}.when: {domain.when} never holds"] = None
    return list(problems)


def _bad_points(plan: SearchPlan) -> list[str]:
    """Settings that fit alone may not fit together: tries the two ends of the space and the warm start."""
    points: dict[str, Point] = {
        "space (lowest values)": plan.point(lambda _, domain: domain.corners[0]),
        "space (highest values)": plan.point(lambda _, domain: domain.corners[-1]),
    }
    problems = []
    for index, point in enumerate(plan.config.warm_start):
        points[f"warm_start.{index}"] = point
        problems += _outside(plan, f"warm_start.{index}", point)
    if not problems:
        found = {where: _wrong(plan, point) for where, point in points.items()}
        problems = [f"{where}: {wrong}" for where, wrong in found.items() if wrong]
    if len(plan.queue) > _MOST_GRID_POINTS:
        problems.append(
            f"sampler.levels: gives a grid of more than {_MOST_GRID_POINTS:,} points; take fewer levels or paths"
        )
    return problems


def _wrong(plan: SearchPlan, point: Point) -> str | None:
    """Why a point is no valid train config."""
    try:
        plan.trial(point)
    except ConfigError as error:
        return str(error)
    return None


def _outside(plan: SearchPlan, where: str, point: Point) -> list[str]:
    """What is wrong with a point that a user gives: paths without a value or that do not apply, values out of the space."""
    wrong: list[str] = []
    missing: list[str] = []

    def choose(key: str, domain: DomainConfig) -> Value:
        if key not in point:
            missing.append(key)
            return domain.corners[0]
        if not domain.holds(point[key]):
            wrong.append(f"{where}.{key}: {point[key]!r} is not in space.{key}: {domain}")
        return point[key]

    unknown = sorted(set(point) - set(plan.point(choose)))
    if missing or unknown:
        wrong.append(
            f"{where}: a point has one value for each path of space that applies to it; {missing=}, {unknown=}"
        )
    return wrong


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
