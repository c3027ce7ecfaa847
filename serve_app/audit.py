"""The audit log: who read what models said to unsafe questions, who was refused, who acted on what others started.

A JSON object a line in the storage, readable by its owner only. It holds names of tokens, never a token, and no text of
questions or answers.
"""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

Event = Literal["unredacted", "refused", "admin"]


class Audit:
    def __init__(self, path: Path | None) -> None:
        """None keeps no log, for a service in a test."""
        self._path = path

    def write(self, event: Event, caller: str | None, **details: str | int | None) -> None:
        """Appends an entry; whole, because a line is one write to a file opened for appending."""
        if self._path is None:
            return
        entry = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "event": event,
            "caller": caller,
            **details,
        }
        line = json.dumps(entry, ensure_ascii=True) + "\n"
        # Opened anew each time, so that whoever rotates logs may move it away.
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)
