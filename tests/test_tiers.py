"""Imports point one way, and heavy libraries are imported where they belong and nowhere else."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from safemirage.cli.jobs import JOBS

ROOT = Path(__file__).parents[1]


def read_tiers(heading: str) -> tuple[frozenset[str], ...]:
    """The tiers that CONTRIBUTING shows in the first block after a line that begins so: names between arrows."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    block = text.partition(f"\n{heading}")[2].partition("```\n")[2].partition("```")[0]
    return tuple(frozenset(name.strip() for name in tier.split(",")) for tier in block.split("<-"))


TIERS = read_tiers("Imports point one way")
"""From left to right. Jobs start the service, so they stand to its right."""
ROOMS = read_tiers("Inside `evaluation`")
"""The rooms and modules of `safemirage.evaluation`, from left to right."""
ROOM_OF = {room: tier for tier, rooms in enumerate(ROOMS) for room in rooms}
TIER_OF = {unit: tier for tier, units in enumerate(TIERS) for unit in units}

TORCH_FREE = (
    "config",
    "files",
    "holm",
    "text",
    "data",
    "store",
    "databases",
    "storage",
    "settings",
    "evaluation",
    "cli",
)
MAY_IMPORT_TORCH = {
    "safemirage.evaluation.generators.decoding.choice",
    "safemirage.evaluation.generators.decoding.padding",
    "safemirage.evaluation.generators.decoding.prompts",
    "safemirage.evaluation.generators.decoding.shared_prefix",
    "safemirage.evaluation.generators.decoding.slots",
    "safemirage.evaluation.generators.live",
    "safemirage.evaluation.generators.transformers",
    "safemirage.evaluation.generators.decoding.turns",
    "safemirage.evaluation.generators.vllm",
}
HEAVY = ("torch", "transformers", "vllm", "deepspeed", "mlflow", "openai", "ray")


def module_of(path: Path, root: Path = ROOT) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules() -> dict[str, Path]:
    return {
        module_of(path): path
        for package in ("safemirage", "ray_jobs", "serve_app")
        for path in sorted((ROOT / package).rglob("*.py"))
    }


def unit_of(module: str) -> str | None:
    """The unit that the tiers order: `safemirage.data.llava` is part of `data`, `ray_jobs.train` of `ray_jobs`."""
    first, *rest = module.split(".")
    if first in {"ray_jobs", "serve_app"}:
        return first
    return rest[0] if first == "safemirage" and rest else None


def room_of(module: str) -> str | None:
    """The room of a module of `safemirage.evaluation`."""
    parts = module.split(".")
    return parts[2] if parts[:2] == ["safemirage", "evaluation"] and len(parts) > 2 else None


def imports(tree: ast.Module) -> Iterator[tuple[str, bool]]:
    """Each imported module and whether it is imported at import time, rather than inside a function."""
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        at_import = id(node) not in inside
        if isinstance(node, ast.Import):
            yield from ((alias.name, at_import) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are banned"
            assert node.module is not None
            # `from safemirage import data` names a unit only by its alias
            yield from ((f"{node.module}.{alias.name}", at_import) for alias in node.names)


def violations(module: str, source: str) -> list[str]:
    found = []
    unit = unit_of(module)
    for target, at_import in imports(ast.parse(source)):
        top = target.split(".")[0]
        other = unit_of(target)
        if (
            unit
            and other
            and other in TIER_OF
            and other != unit
            and TIER_OF[other] >= TIER_OF[unit]
        ):
            found.append(f"{module} imports {target}, which is not in a tier to the left")
        room, next_room = room_of(module), room_of(target)
        if (
            room
            and next_room in ROOM_OF
            and next_room != room
            and ROOM_OF[next_room] >= ROOM_OF[room]
        ):
            found.append(f"{module} imports {target}, whose room is not to the left")
        if top == "ray" and module.startswith("safemirage"):
            found.append(f"{module} imports ray")
        if top == "mlflow" and module != "safemirage.tracking":
            found.append(f"{module} imports mlflow, which safemirage.tracking alone may")
        if top == "deepspeed" and (module != "safemirage.training.zero" or at_import):
            found.append(
                f"{module} imports deepspeed, which functions of safemirage.training.zero alone may"
            )
        if top == "torch" and is_torch_free(module):
            found.append(f"{module} imports torch")
    return found


def named_to_the_right(module: str, source: str) -> list[str]:
    """Texts in the library that name a package to its right, as an import by name does. `cli.jobs` and the public API alone may."""
    if not module.startswith("safemirage") or module in {"safemirage", "safemirage.cli.jobs"}:
        return []
    return [
        f"{module} names {node.value!r}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value.startswith(("ray_jobs.", "serve_app."))
    ]


def is_torch_free(module: str) -> bool:
    if module in MAY_IMPORT_TORCH:
        return False
    if module.startswith("serve_app.http"):
        return True
    return module in {"safemirage", "serve_app"} or (
        module.startswith("safemirage.") and unit_of(module) in TORCH_FREE
    )


def test_tiers_every_unit_has_one() -> None:
    units = {unit_of(module) for module in modules()} - {None}
    assert units <= TIER_OF.keys(), "give the new unit a tier"
    rooms = {room_of(module) for module in modules()} - {None}
    assert rooms <= ROOM_OF.keys(), "give the new room of evaluation a place"
    assert TIER_OF.keys() - units == set(), "CONTRIBUTING names a unit that is not there"
    assert ROOM_OF.keys() - rooms == set(), "CONTRIBUTING names a room that is not there"


def test_tiers_imports_point_to_the_left_only() -> None:
    assert [
        item for module, path in modules().items() for item in violations(module, path.read_text())
    ] == []


def test_tiers_commands_alone_name_what_is_to_their_right() -> None:
    assert [
        item
        for module, path in modules().items()
        for item in named_to_the_right(module, path.read_text())
    ] == []
    assert named_to_the_right("safemirage.cli.x", "import_module('ray_jobs.train')")
    known = modules()
    for target in JOBS.values():
        module, _, function = target.partition(":")
        defined = ast.parse(known[module].read_text()).body
        assert function in {node.name for node in defined if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("safemirage.config.x", "from safemirage.data import llava"),
        ("safemirage.data.x", "import safemirage.store.leases"),
        ("safemirage.data.x", "from safemirage import evaluation"),
        ("safemirage.models.x", "def f():\n    from safemirage.training import loop"),
        ("safemirage.evaluation.x", "from safemirage.training.loop import train"),
        ("safemirage.cli", "from ray_jobs import train"),
        ("safemirage.evaluation.metrics.x", "from safemirage.evaluation.run.archive import y"),
        ("safemirage.evaluation.attacks.x", "from safemirage.evaluation.reports.format import y"),
        ("serve_app.app", "from ray_jobs.cluster.head import start"),
        ("safemirage.training.x", "import ray.train"),
        ("safemirage.training.x", "def f():\n    import mlflow"),
        ("safemirage.training.zero", "import deepspeed"),
        ("safemirage.training.loop", "def f():\n    import deepspeed"),
        ("safemirage.evaluation.x", "def f():\n    import torch"),
        ("serve_app.http.api", "from torch import nn"),
    ],
)
def test_tiers_bad_import_is_found(module: str, source: str) -> None:
    assert violations(module, source)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("safemirage.training.zero", "def f():\n    import deepspeed"),
        ("safemirage.tracking", "def f():\n    import mlflow"),
        ("safemirage.evaluation.generators.vllm", "import torch"),
        ("safemirage.evaluation.x", "from safemirage.store import open_store"),
        ("ray_jobs.train", "import ray"),
        ("safemirage.data.x", "from safemirage.data.records import DataError"),
    ],
)
def test_tiers_good_import_is_let_through(module: str, source: str) -> None:
    assert violations(module, source) == []


def circle(sources: Mapping[str, str]) -> list[str]:
    """Modules of which each imports the next and the last the first, inside functions too; empty where there are none."""
    graph = {
        module: {
            target if target in sources else target.rpartition(".")[0]
            for target, _ in imports(ast.parse(source))
        }
        & sources.keys() - {module}
        for module, source in sources.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_tiers_no_modules_import_each_other_in_a_circle() -> None:
    assert circle({module: path.read_text() for module, path in modules().items()}) == []


def test_tiers_circle_through_a_function_is_found() -> None:
    sources = {
        "own.first": "from own.second import a",
        "own.second": "def f():\n    from own import third",
        "own.third": "import own.first",
    }
    assert set(circle(sources)) == sources.keys()
    assert circle({**sources, "own.third": ""}) == []


_IMPORT_EACH = """
import importlib, json, os, sys, traceback

heavy, ours, names = json.loads(sys.stdin.read())

def loaded():
    return [item for item in heavy if item in sys.modules]

for name in names:
    importlib.import_module(name)
    if loaded():
        sys.exit(f"{name} loads {loaded()}")
for name in [name for name in sys.modules if name.split(".")[0] in ours]:
    del sys.modules[name]
for name in names:
    if (child := os.fork()) == 0:
        try:
            importlib.import_module(name)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        print(json.dumps([name, loaded()]), flush=True)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit(f"{name} cannot be imported first")
"""
"""One interpreter imports all modules in turn, and stops at the first that loads something heavy. Then it forgets ours,
keeps the libraries, and forks once for each module: there it is the first of ours to be imported, as a user may do."""


def imported_each(names: list[str], folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    ours = sorted({name.split(".")[0] for name in names})
    return subprocess.run(
        [sys.executable, "-c", _IMPORT_EACH],
        input=json.dumps([HEAVY, ours, names]),
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
    )


@pytest.mark.processes
@pytest.mark.timeout(180)  # an interpreter that imports everything, then a fork a module
def test_tiers_light_modules_load_nothing_heavy() -> None:
    names = [module for module in modules() if is_torch_free(module)]
    result = imported_each(names)
    assert result.returncode == 0, result.stderr
    loaded = dict(json.loads(line) for line in result.stdout.splitlines())
    assert loaded == {name: [] for name in names}


@pytest.mark.processes
def test_tiers_module_that_loads_something_heavy_or_cannot_come_first_is_named(
    tmp_path: Path,
) -> None:
    package = tmp_path / "own"
    package.mkdir()
    (tmp_path / "mlflow.py").touch()
    sources = {
        "__init__": "",
        "light": "",
        "heavy": "def f():\n    import mlflow\nf()",
        "first": "import own.second\nvalue = 1",
        "second": "from own.first import value",
    }
    for name, source in sources.items():
        (package / f"{name}.py").write_text(source)
    heavy = imported_each(["own", "own.light", "own.heavy"], tmp_path)
    assert "own.heavy loads ['mlflow']" in heavy.stderr
    circular = imported_each(["own.second", "own.first"], tmp_path)
    assert "own.first cannot be imported first" in circular.stderr


def test_tiers_configs_folder_holds_no_code() -> None:
    code = [path for path in (ROOT / "configs").rglob("*.py") if path.name != "__init__.py"]
    assert code == []
