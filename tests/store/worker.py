"""A process that asks for a run, for the concurrency tests:

    python worker.py STORE_URL RUN_ID LOG TTL_S SECONDS [fail]

Each time its work is called it appends a line to LOG; at its end it prints the record as JSON. While it waits for
another process it keeps LOG.followed in being; with `fail` its work fails once that file is there.
"""

import json
import os
import sys
import time
from pathlib import Path

from safemirage.store import RunFailed, RunHandle, open_store, run_once


def main() -> None:
    url, run_id, log, ttl_s, seconds, *mode = sys.argv[1:]
    followed = Path(f"{log}.followed")

    def work(handle: RunHandle) -> dict[str, int]:
        with Path(log).open("a") as stream:
            stream.write(f"{os.getpid()}\n")
        deadline = time.monotonic() + float(seconds)
        while time.monotonic() < deadline:
            handle.progress({"pid": os.getpid()})
            time.sleep(0.05)
        if mode == ["fail"]:
            while not followed.exists():
                time.sleep(0.05)
            raise RuntimeError("the disk is full")
        return {"pid": os.getpid()}

    waits = 0

    def waited(_record: object) -> None:
        nonlocal waits
        waits += 1
        followed.touch()

    with open_store(url) as store:
        try:
            record = run_once(
                store,
                run_id=run_id,
                name="w",
                kind="train",
                config={},
                work=work,
                on_wait=waited,
                ttl_s=float(ttl_s),
            )
        except RunFailed as error:
            record = error.record
        shown = {"state": record.state, "result": record.result, "attempts": record.attempts}
        sys.stdout.write(json.dumps({**shown, "waits": waits, "pid": os.getpid()}))


if __name__ == "__main__":
    main()
