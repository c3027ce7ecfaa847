"""A suite's folder, written: suite.json, its images by content, and files about how it was made."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from safemirage.evaluation.suites.folder import SUITE_FILE
from safemirage.evaluation.types import ImageFile, ImageInput, Sample, sample_tree
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
    paths = {sample.image.digest: _put(folder, sample.image) for sample in samples if sample.image}
    records = [
        {**sample_tree(sample), "image": paths[sample.image.digest] if sample.image else None}
        for sample in samples
    ]
    files = {SUITE_FILE: {"name": name, "samples": records}, **(about or {})}
    return write_files(folder, files, force=force)


def _put(folder: Path, image: ImageInput) -> str:
    """The image's path in the folder; a file that lies there already is named, any other image is written."""
    if isinstance(image, ImageFile) and image.path.is_relative_to(folder):
        return image.path.relative_to(folder).as_posix()
    path = folder / _IMAGES / image.digest
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, image.data)
    return f"{_IMAGES}/{image.digest}"
