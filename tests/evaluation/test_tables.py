"""Tables on the screen: at 80 columns no cell is cut and no line is too long, whatever stands in them."""

import io
import re
from collections.abc import Callable, Sequence

import pytest
from rich.console import Console

from safemirage.config.evaluate import Label
from safemirage.evaluation.metrics import Measures, Row, score
from safemirage.evaluation.tables import print_rates, rates_grid, screen
from tests.evaluation.samples import make_sample

WIDTH = 80
LONG = "llava_v1.5_13b_rmu_full_1_epoch-0123456789ab"
MEASURES: Measures = {
    "the_judge_of_everything": ("asr", "refusal_rate", "useful_rate", "degenerate_rate")
}


def _printed(show: Callable[[Console], None], width: int = WIDTH) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    show(console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def _check(text: str, *cells: str) -> None:
    """No line is too long, no dots stand for what was cut, and every cell is there, wrapped or not."""
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "…" not in text
    for cell in cells:
        for number in re.findall(r"[+-]?\d[\d.]*", cell):
            assert number in text


def _rows(model: str) -> list[Row]:
    """Rates of worst-case length: 100.0 % of many, some without a verdict."""
    labels: Sequence[Label] = ["comply"] * 96 + ["degenerate", "refuse", "unscored"]
    samples = [
        make_sample(f"{case}{place}", {"the_judge_of_everything": label}, case=case)
        for case in ("unsafe_unsafe_plain", "unsafe_unsafe_what", "safe_safe_share", "safe_unseen")
        for place, label in enumerate(labels)
    ]
    return score(model, samples, MEASURES)


def test_rates_at_80_columns_have_every_number_whole() -> None:
    rows = [row for name in (LONG, f"{LONG}-b", "x" * 60) for row in _rows(name)]
    text = _printed(lambda console: print_rates(console, rows, title=LONG))
    grid = rates_grid(rows)
    _check(text, *(cell for line in grid.lines for cell in line[1:]))
    assert text.count("n = 98") == 3 * 8
    assert text.count("1 unscored") >= 3 * 8


def test_rates_outside_a_terminal_stand_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    print_rates(screen(), _rows(LONG))
    lines = capsys.readouterr().out.splitlines()
    line = next(line for line in lines if line.startswith(LONG))
    assert len(re.findall(r"[\d.]+ %", line)) == 8


def test_rates_show_degenerate_answers_beside_asr_and_of_unsafe_cases_alone() -> None:
    header = rates_grid(_rows("m")).header
    assert header[1:] == [
        "ASR\nunsafe unsafe plain", "ASR\nunsafe unsafe what",
        "degenerate\nunsafe unsafe plain", "degenerate\nunsafe unsafe what",
        "refused\nsafe safe share", "refused\nsafe unseen",
        "useful\nsafe safe share", "useful\nsafe unseen",
    ]  # fmt: skip
