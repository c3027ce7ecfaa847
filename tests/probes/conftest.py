from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from safemirage.storage import Storage
from safemirage.store import Store, open_store
from tests.kinds import kind
from tests.probes.exports import LORA, tiny_suite, train_export
from tests.tiny_run import make_tiny_run

pytest_ignore_collect, pytest_collection_modifyitems = kind(__file__, "model")


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return make_tiny_run(tmp_path_factory.mktemp("tiny") / "run")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    return Storage(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="session")
def full_export(tree: dict[str, Any], trained: Storage) -> Path:
    return train_export(tree, trained, "full")


@pytest.fixture(scope="session")
def adapter_export(tree: dict[str, Any], full_export: Path, trained: Storage) -> Path:
    """An adapter on the full export, so that its base is an export too."""
    model = {"path": str(full_export), "lora": LORA}
    optim = {"learning_rate": 1e-2}
    return train_export(tree, trained, "adapter", model=model, optim=optim)


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_suite(tmp_path_factory.mktemp("suite") / "suite")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(f"sqlite:///{tmp_path / 'store.db'}") as opened:
        yield opened
