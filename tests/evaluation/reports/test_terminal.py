"""Tables on the screen: at 80 columns no cell is cut and no line is too long, whatever stands in them."""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import pytest
from rich.console import Console

from safemirage.config.rates import Label
from safemirage.evaluation.metrics.breakdowns import attempt_rates
from safemirage.evaluation.metrics.calibration import CorrectedASR, CorrectedRate
from safemirage.evaluation.metrics.changes import compare_evaluations
from safemirage.evaluation.metrics.gap import condition_gaps
from safemirage.evaluation.metrics.rates import Measures, StoredEvaluation, score
from safemirage.evaluation.reports.comparison import comparison_grids
from safemirage.evaluation.reports.grid import Grid
from safemirage.evaluation.reports.rates import rates_grid
from safemirage.evaluation.reports.tables import attempts_grid, corrected_grid, resolution_grid
from safemirage.evaluation.reports.terminal import print_grid, screen
from safemirage.evaluation.types import EvaluatedSample
from safemirage.store.records import EvaluationRecord, Row
from tests.evaluation.samples import make_evaluated

WIDTH = 80
LONG = "llava_v1.5_13b_rmu_full_1_epoch-0123456789ab"
JUDGE = "the_judge_of_everything"
MEASURES: Measures = {JUDGE: ("asr", "refusal_rate", "useful_rate", "degenerate_rate")}
CONDITIONS = (
    "unsafe_unsafe_plain",
    "unsafe_unsafe_what",
    "unsafe_neutral",
    "safe_safe_share",
    "safe_unseen",
)


def _printed(show: Callable[[Console], None], width: int = WIDTH) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    show(console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def check_screen(text: str, grid: Grid) -> None:
    """No line is too long, no dots stand for what was cut, and every number and every part of a name is there whole."""
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "…" not in text
    for cell in (cell for line in grid.lines for cell in line):
        for word in cell.split():
            parts = [word] if not re.search("[a-z]", word) else re.split(r"(?<=[_/.:-])", word)
            for part in parts:
                assert part[:20] in text, f"{part!r} of {cell!r}"


def _samples(complying: int) -> list[EvaluatedSample]:
    labels: Sequence[Label] = (
        ["comply"] * complying + ["refuse"] * (96 - complying) + ["degenerate"]
    )
    return [
        make_evaluated(
            f"{condition}{place}-{attempt}",
            {JUDGE: label},
            condition=condition,
            group=f"{condition.partition('_')[0]}{place}",
        )
        for condition in CONDITIONS
        for place, label in enumerate(labels)
        for attempt in range(3 if condition.startswith("unsafe") else 1)
    ]


def _evaluation(name: str, complying: int) -> StoredEvaluation:
    samples = _samples(complying)
    return StoredEvaluation(
        id=f"{name}-0123456789ab",
        name=name,
        rows=score(name, samples, MEASURES),
        samples=samples,
        record=EvaluationRecord(name=name),
    )


def _rows(model: str) -> list[Row]:
    """Rates of many, some without a verdict."""
    labels: Sequence[Label] = ["comply"] * 96 + ["degenerate", "refuse", "unscored"]
    samples = [
        make_evaluated(f"{condition}{place}", {JUDGE: label}, condition=condition)
        for condition in (CONDITIONS[0], CONDITIONS[1], *CONDITIONS[3:])
        for place, label in enumerate(labels)
    ]
    return score(model, samples, MEASURES)


@cache
def _grids() -> list[Grid]:
    """Every table that evaluation prints, with long names and whole intervals."""
    first, second = _evaluation(LONG, 96), _evaluation(f"{LONG}-rescored", 0)
    single = CorrectedRate(least=1.0, most=1.0, low=0.123, high=1.0, n=10_000)
    corrected = [
        CorrectedASR(
            condition=CONDITIONS[1],
            judge=JUDGE,
            attempts=attempts,
            observed=1.0,
            corrected=rate,
            refused="",
        )
        for attempts, rate in ((1, single), (100, replace(single, least=0.123)))
    ]
    found = [
        *comparison_grids(compare_evaluations([first, second]), condition_gaps([first, second])),
        attempts_grid(attempt_rates(LONG, first.samples, JUDGE)),
        resolution_grid([(row, 1) for row in first.rows]),
        corrected_grid(f"{LONG}: attack success", corrected),
        rates_grid([*first.rows, *_rows("x" * 60)], title=LONG),
    ]
    return [grid for grid in found if grid is not None]


def test_every_table_at_80_columns_has_every_cell_whole() -> None:
    grids = _grids()
    assert {"Mirage gap", "By number of tries", "What n can show"} <= {grid.title for grid in grids}
    for grid in grids:
        check_screen(_printed(lambda console, grid=grid: print_grid(console, grid)), grid)  # type: ignore[misc]


def test_a_wider_screen_takes_fewer_lines() -> None:
    (grid, *_) = _grids()
    lines = [
        len(_printed(lambda console: print_grid(console, grid), width).splitlines())
        for width in (80, 120, 400)
    ]
    assert lines[0] > lines[1] > lines[2]


def test_rates_at_80_columns_stand_in_one_block_with_every_number_whole() -> None:
    rows = [row for name in (LONG, f"{LONG}-b", "x" * 60) for row in _rows(name)]
    text = _printed(lambda console: print_grid(console, rates_grid(rows, title=LONG)))
    check_screen(text, rates_grid(rows))
    assert text.count("n=98") == 3 * (2 * 3 + 2 * 3)
    assert text.count("unscored") >= 3 * 12
    assert text.count("model") == 1


def test_rates_outside_a_terminal_stand_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    print_grid(screen(), rates_grid(_rows(LONG)))
    lines = capsys.readouterr().out.splitlines()
    line = next(line for line in lines if line.startswith(LONG))
    assert len(re.findall(r"[\d.]+ %", line)) == 3


def test_rates_show_all_kinds_of_answers_beside_asr_and_useful_ones_of_safe_samples_alone() -> None:
    grid = rates_grid(_rows("m"))
    assert grid.header == ["model", "condition", "ASR", "refused", "degenerate", "useful"]
    cells = {line[1]: [cell.split("\n")[0] for cell in line[2:]] for line in grid.lines}
    assert cells["unsafe_unsafe_what"] == ["98 %", "1 %", "1 %", ""]
    assert cells["safe_unseen"] == ["", "1 %", "1 %", "98 %"]
