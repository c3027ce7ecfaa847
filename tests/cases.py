"""Small inputs that were once read wrongly; they lie outside of the repository."""

import os
from pathlib import Path

import pytest

CASES = Path(os.environ.get("SAFEMIRAGE_CASES") or Path(__file__).parents[2] / "shared" / "cases")


def case_file(name: str) -> Path:
    """The file, or the test is skipped."""
    path = CASES / name
    if not path.is_file():
        pytest.skip(f"{path} is not there; SAFEMIRAGE_CASES may name the folder of cases")
    return path
