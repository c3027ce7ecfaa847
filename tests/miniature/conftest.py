import json
from pathlib import Path
from typing import Any

import pytest

from safemirage.config.world import SetsConfig, WorldConfig
from safemirage.miniature.world import World, build_world
from safemirage.storage import Storage
from tests.kinds import kind

pytest_ignore_collect, pytest_collection_modifyitems = kind(__file__, "model")

SMALL = SetsConfig(base=120, unsafe=60, safe=60, selection=12, test=20)


def read(path: Path) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = json.loads(path.read_text())
    return records


def question_of(record: dict[str, Any]) -> str:
    return str(record["conversations"][0]["value"]).removeprefix("<image>\n")


def answer_of(record: dict[str, Any]) -> str:
    return str(record["conversations"][1]["value"])


@pytest.fixture(scope="session")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build_world(WorldConfig(sets=SMALL), Storage(tmp_path_factory.mktemp("storage")))
