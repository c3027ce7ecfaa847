"""A suite's folder, written: suite.json, its images by content, and files about how it was made."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from safemirage.evaluation.suites.folder import SUITE_FILE
from safemirage.evaluation.types import Sample, sample_tree
from safemirage.files import write_bytes, write_files

_IMAGES = "images"


def write_suite(
    folder: Path,
    name: str,
    samples: Sequence[Sample],
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
    images = {
        sample.image.digest: sample.image.data for sample in samples if sample.image is not None
    }
    (folder / _IMAGES).mkdir(parents=True, exist_ok=True)
    for digest, data in images.items():
        path = folder / _IMAGES / digest
        if not path.exists():
            write_bytes(path, data)
    records = [
        {
            **sample_tree(sample),
            "image": f"{_IMAGES}/{sample.image.digest}" if sample.image else None,
        }
        for sample in samples
    ]
    files = {SUITE_FILE: {"name": name, "samples": records}, **(about or {})}
    return write_files(folder, files, force=force)
