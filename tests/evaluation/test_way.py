"""The way of a sample: through how many files its values pass from the suite to the table of a report."""

import asyncio
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

from safemirage.config.evaluate import EvaluateConfig
from safemirage.config.loading.load import build_config
from safemirage.evaluation.generators.scripted import ScriptedGenerator
from safemirage.evaluation.reports.rates import rates_grid
from safemirage.evaluation.run.archive import load_evaluation
from safemirage.evaluation.run.process import run_evaluation
from safemirage.evaluation.types import EvaluatedSample, Generation, Sample, Verdict
from safemirage.store import open_store
from safemirage.store.records import Row
from tests.evaluation.samples import sample_record, write_suite

ROOT = Path(__file__).parents[2]
CARRIED = (Sample, Generation, Verdict, EvaluatedSample, Row)


def carries(value: Any, depth: int = 0) -> bool:
    """Whether it is one of a sample's records, or a list or mapping of them."""
    if isinstance(value, CARRIED):
        return True
    if isinstance(value, dict):
        value = list(value.values())
    return (
        isinstance(value, list | tuple)
        and depth < 2
        and bool(value)
        and carries(value[0], depth + 1)
    )


@contextmanager
def followed() -> Iterator[set[str]]:
    """The files of the library with a function that takes or returns one of a sample's records, in any thread."""
    files: set[str] = set()
    library = f"{ROOT / 'safemirage'}/"

    def look(frame: FrameType, event: str, returned: Any) -> None:
        code = frame.f_code
        if not code.co_filename.startswith(library):
            return
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        given = [frame.f_locals.get(name) for name in names] if event == "call" else []
        if any(map(carries, given)) or (event == "return" and carries(returned)):
            files.add(code.co_filename.removeprefix(library))

    threading.setprofile(look)  # store and suite are read in threads
    sys.setprofile(look)
    try:
        yield files
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]  # what ends it, says its documentation


def test_a_sample_passes_the_ten_files_that_contributing_names(tmp_path: Path) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    block = text.partition("The way of a sample")[2].partition("```\n")[2].partition("```")[0]
    named = {line.split()[0] for line in block.splitlines()}
    suite = write_suite(tmp_path / "suite", [sample_record("a"), sample_record("b")])
    tree = {
        "model": {"name": "openai", "url": "http://127.0.0.1:9/v1", "model": "m"},
        "suite": str(suite),
        "judges": [{"name": "keywords"}],
    }
    config = build_config(EvaluateConfig, tree)
    generator = ScriptedGenerator(lambda _: "no", version="1")
    with open_store(f"sqlite:///{tmp_path / 'store.db'}") as store, followed() as files:
        evaluation = asyncio.run(
            run_evaluation(config, store=store, open_model=lambda _: nullcontext(generator))
        )
        grid = rates_grid(load_evaluation(store, evaluation).rows)
    assert grid.lines
    assert files == named
    assert len(named) <= 10
