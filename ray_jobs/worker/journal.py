"""A file of JSON lines that outlives kills: a line cut off in the middle costs itself, and none after it."""

import json
from pathlib import Path
from typing import Any


def append_line(file: Path, tree: Any) -> None:
    """Adds a line; on one of its own, also where the last writer was cut off."""
    with file.open("a+b") as stream:
        size = stream.tell()
        stream.seek(max(0, size - 1))
        torn = size > 0 and stream.read(1) != b"\n"
        stream.write((b"\n" if torn else b"") + json.dumps(tree).encode() + b"\n")


def read_lines(text: bytes) -> list[Any]:
    """The lines that are whole."""
    found = []
    for line in text.splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue  # its writer was cut off
    return found
