"""Files and folders that others see whole or not at all: each is written under another name and renamed when it is
complete."""

import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Gives a draft's path to write to; when the block ends well, and the draft is on the disk, it replaces `path`.

    The draft's name ends as `path` does, because some libraries choose a file's format by its ending.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.stem}.{uuid.uuid4().hex}{path.suffix}")
    try:
        yield draft
        with draft.open("rb") as stream:
            os.fsync(stream.fileno())  # else a power cut could leave an empty file of the new name
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file, in UTF-8, whole or not at all."""
    with whole_file(path) as draft:
        draft.write_text(text, encoding="utf-8")


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all."""
    with whole_file(path) as draft:
        draft.write_bytes(data)


def write_files(
    folder: Path | str, files: Mapping[str, object], *, force: bool = False
) -> dict[str, str]:
    """Writes each as JSON, whole or not at all; says `written` or `unchanged` of each.

    Raises:
        FileExistsError: names every file that holds something else, before any is written; `force` replaces them.
    """
    folder = Path(folder)
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
            write_text(path, text)
        result[path.name] = "written" if fresh else "unchanged"
    return result


@contextmanager
def whole_folder(folder: Path, *, replace: bool = False) -> Iterator[Path]:
    """Gives a new folder to fill, which takes the name of `folder` when the block ends well.

    A `folder` that is there by then is replaced, or kept where `replace` is false: two processes that make the same
    thing at once both end well.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    draft.mkdir()
    try:
        yield draft
        if replace and folder.exists():
            old = folder.with_name(f"{draft.name}.old")
            folder.rename(old)
            draft.rename(folder)
            shutil.rmtree(old)
        else:
            _rename_unless_there(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _rename_unless_there(draft: Path, folder: Path) -> None:
    try:
        draft.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
