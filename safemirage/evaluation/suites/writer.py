"""A suite's folder, written: suite.json, its images by content, and files about how it was made."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from safemirage.evaluation.suites.folder import SUITE_FILE, case_tree
from safemirage.evaluation.types import Case
from safemirage.files import write_bytes, write_files

_IMAGES = "images"


def write_suite(
    folder: Path,
    name: str,
    cases: Sequence[Case],
    *,
    about: Mapping[str, object] | None = None,
    force: bool = False,
) -> dict[str, str]:
    """Writes what `load_suite` reads; says `written` or `unchanged` of each JSON file.

    Args:
        about: further JSON files by name.

    Raises:
        FileExistsError: a file would change; `force` replaces it.
    """
    images = {case.image.digest: case.image.data for case in cases if case.image is not None}
    (folder / _IMAGES).mkdir(parents=True, exist_ok=True)
    for digest, data in images.items():
        path = folder / _IMAGES / digest
        if not path.exists():
            write_bytes(path, data)
    records = [
        {**case_tree(case), "image": f"{_IMAGES}/{case.image.digest}" if case.image else None}
        for case in cases
    ]
    files = {SUITE_FILE: {"name": name, "cases": records}, **(about or {})}
    return write_files(folder, files, force=force)
