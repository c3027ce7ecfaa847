"""Tests of this folder need CUDA: without it they skip, and fail where SAFEMIRAGE_REQUIRE_GPU=1 says that they must run."""

import os
from pathlib import Path

import pytest
import torch

from tests.kinds import kind

pytest_ignore_collect, _ = kind(__file__, "gpu")
_HERE = Path(__file__).parent


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    ours = [item for item in items if item.path.is_relative_to(_HERE)]
    if not ours:
        return
    has_cuda = torch.cuda.is_available()
    if not has_cuda and os.environ.get("SAFEMIRAGE_REQUIRE_GPU") == "1":
        raise pytest.UsageError(
            f"SAFEMIRAGE_REQUIRE_GPU=1, but torch {torch.__version__} finds no CUDA device; "
            "run on a machine that has one, or unset it to skip these tests"
        )
    for item in ours:
        item.add_marker(pytest.mark.gpu)
        if not has_cuda:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
