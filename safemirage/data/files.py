"""JSON files written whole or not at all, and never over others without being told to."""

import json
import os
from collections.abc import Mapping
from pathlib import Path


def write_files(
    folder: Path | str, files: Mapping[str, object], *, force: bool = False
) -> dict[str, str]:
    """Writes each as JSON, whole or not at all; says `written` or `unchanged` of each.

    Raises:
        FileExistsError: names every file that holds something else, before any is written; `force` replaces them.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        folder / name: json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        for name, content in files.items()
    }
    stale = {
        path for path, text in texts.items() if path.exists() and path.read_bytes() != text.encode()
    }
    if stale and not force:
        names = ", ".join(sorted(path.name for path in stale))
        raise FileExistsError(
            f"{folder}: {names} would change; choose another folder, or replace them by --force"
        )
    result = {}
    for path, text in texts.items():
        fresh = path in stale or not path.exists()
        if fresh:
            _write_whole(path, text)
        result[path.name] = "written" if fresh else "unchanged"
    return result


def _write_whole(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    with draft.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(path)
