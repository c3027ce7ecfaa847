"""Kinds of tests by what they start or compute with: a folder's conftest.py gives all of its tests their mark.

    pytest_ignore_collect, pytest_collection_modifyitems = kind(__file__, "ray")

`--quick` leaves such a folder out whole: not even its modules are imported, which takes longer than many tests.
"""

from collections.abc import Callable
from pathlib import Path

import pytest


def kind(conftest: str, mark: str) -> tuple[Callable[..., bool | None], Callable[..., None]]:
    """The hooks of a folder whose tests all carry `mark`."""
    folder = Path(conftest).parent

    def ignore(collection_path: Path, config: pytest.Config) -> bool | None:
        # None leaves the decision to other plugins; False would overrule them.
        return True if config.getoption("quick") else None

    def modify(items: list[pytest.Item]) -> None:
        for item in items:
            if item.path.is_relative_to(folder):  # the hook is given the items of all folders
                item.add_marker(mark)

    return ignore, modify
