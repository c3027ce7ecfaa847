"""What a job that asks models needs and does not have: all of it at once, within seconds, before anything is read or
loaded."""

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any

from safemirage.config.generators import OpenAIConfig, TransformersConfig, VLLMConfig
from safemirage.config.loading.identity import digest_of
from safemirage.config.loading.load import to_tree
from safemirage.config.types import joined, nodes
from safemirage.config.vlguard import VLGuardConfig
from safemirage.config.world import is_miniature
from safemirage.data.records import DataError
from safemirage.data.vlguard import read_vlguard
from safemirage.evaluation.generators.openai import missing_service
from safemirage.evaluation.suites.folder import SUITE_FILE
from safemirage.models.presence import (
    PreflightError,
    missing_device,
    missing_packages,
    missing_weights,
)

_SERVICES_AT_A_TIME = 16


def require(*configs: Any, key: str = "", gpus: int | None = None) -> None:
    """Raises PreflightError with all that `missing_of` finds in the configs."""
    if problems := missing_of(*configs, key=key, gpus=gpus):
        raise PreflightError("\n".join(problems))


def missing_of(*configs: Any, key: str = "", gpus: int | None = None) -> list[str]:
    """A line for each thing that is missing: dotted key, value, the way out. Nothing where the job can start.

    Models are looked for wherever they stand in a config (the one that is asked, judges', writers'), and so are files,
    image folders and suites. VLGuard's images are looked for one by one; other sets' by their loaders.

    Args:
        configs: dataclasses, or tuples of them.
        key: where they stand in the user's file.
        gpus: how many GPUs the engines can have on a cluster; None: they run in this process.
    """
    found_nodes = [item for config in configs for item in nodes(config, key)]
    services: dict[str, tuple[OpenAIConfig, list[str]]] = {}
    for where, node in found_nodes:
        if isinstance(node, OpenAIConfig):
            services.setdefault(digest_of(to_tree(node)), (node, []))[1].append(where)
    with ThreadPoolExecutor(max_workers=_SERVICES_AT_A_TIME) as pool:
        answers = pool.map(_service, services.values())
        found = [line for where, node in found_nodes for line in _missing(where, node, gpus)]
        found += [line for lines in answers for line in lines]
    return list(dict.fromkeys(found))


def _missing(key: str, node: Any, gpus: int | None) -> list[str]:
    match node:
        case OpenAIConfig():
            return []  # asked beside
        case TransformersConfig() | VLLMConfig():
            return _engine(key, node, gpus)
        case _:
            return _files(key, node)


def _engine(key: str, config: TransformersConfig | VLLMConfig, gpus: int | None) -> list[str]:
    found = {"name": missing_packages(config.name)}
    if isinstance(config, TransformersConfig):
        found["device"] = missing_device(config.device, gpus=gpus)
    found["path"] = missing_weights(config.path)
    return [f"{joined(key, name)}: {text}" for name, text in found.items() if text is not None]


def _service(asked: tuple[OpenAIConfig, Sequence[str]]) -> list[str]:
    """What is wrong with a service, in one line however many judges ask there."""
    config, keys = asked
    problem = missing_service(config)
    if problem is None:
        return []
    names = [joined(key, problem.field) for key in keys]
    return [f"{', '.join(names)}: {problem.text}, or name another"]


def _files(key: str, node: Any) -> list[str]:
    """The files and folders that a node of the config names."""
    problems = []
    for item in fields(node):
        path = getattr(node, item.name)
        where = joined(key, item.name)
        if not isinstance(path, str) or is_miniature(path):
            continue
        local = Path(path).expanduser()
        if item.name == "suite" and not (local / SUITE_FILE).is_file():
            problems.append(f"{where}: {path!r} holds no {SUITE_FILE}; name a suite's folder")
        elif item.name == "images" and not local.is_dir():
            problems.append(f"{where}: {path!r} is no folder; put the images there, or name theirs")
        elif item.metadata.get("input") == "data" and not local.exists():
            problems.append(f"{where}: {path!r} is not there; put it there, or name another place")
    if not problems and isinstance(node, VLGuardConfig):
        problems = _records(key, node)
    return problems


def _records(key: str, config: VLGuardConfig) -> list[str]:
    """Records without their images, and whatever else is wrong with the test file."""
    with warnings.catch_warnings(action="ignore"):
        try:
            read_vlguard(Path(config.test).expanduser(), config.images)
        except DataError as error:
            return [f"{joined(key, 'test')}: {error}"]
    return []
