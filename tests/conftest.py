"""What holds for all tests."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.vlguard_files import WriteJson

# Read when torch is imported. Tiny models gain nothing from more threads, and threads that wait by spinning take the
# cores from the other processes of a test: with one thread a test of many small forwards ran in a tenth of the time.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# GNU readline, which pytest imports, exports these two to the processes that pytest-xdist starts. Tables would then be as
# narrow as a terminal that is not there.
for name in ("COLUMNS", "LINES"):
    os.environ.pop(name, None)

VLGUARD = Path(
    os.environ.get("SAFEMIRAGE_VLGUARD")
    or Path(__file__).parents[2] / "shared" / "data" / "vlguard"
)


@pytest.fixture(scope="session", autouse=True)
def _no_storage_of_the_users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a test does not name lies in a fresh folder: never in the storage, or the store, of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SAFEMIRAGE_STORAGE", str(tmp_path_factory.mktemp("storage")))
        for name in ("SAFEMIRAGE_STORE_URL", "SAFEMIRAGE_DATA", "MLFLOW_TRACKING_URI"):
            patched.delenv(name, raising=False)
        yield


@pytest.fixture(scope="session")
def vlguard() -> Path:
    """Folder of VLGuard's train.json, test.json and the two files of rewritten questions."""
    if not (VLGUARD / "train.json").is_file():
        pytest.skip(
            f"VLGuard's files are not in {VLGUARD}; SAFEMIRAGE_VLGUARD may name their folder"
        )
    return VLGUARD


@pytest.fixture
def write_json(tmp_path: Path) -> WriteJson:
    numbers = iter(range(1000))

    def write(content: Any) -> Path:
        path = tmp_path / f"records_{next(numbers)}.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--quick",
        action="store_true",
        help="Leave out the folders that start Ray, vLLM or a browser, or compute with models.",
    )


# What starts Ray, vLLM or a browser expects the machine's cores and memory for itself.
ALONE = ("tests/cluster/", "tests/engines/", "tests/browser/")


class _Scheduling(LoadScopeScheduling):
    """Tests of one module share fixtures and stay in one process; so do all that start a cluster, an engine or a
    browser: two of those never run beside each other."""

    def _split_scope(self, nodeid: str) -> str:
        return "alone" if nodeid.startswith(ALONE) else nodeid.split("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    return _Scheduling(config, log)
