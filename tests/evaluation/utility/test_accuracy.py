"""The table of safety and utility, a line a model."""

from pathlib import Path
from typing import Any

from safemirage.evaluation.metrics.rates import score
from safemirage.evaluation.reports.tables.utility import model_lines, utility_grid
from safemirage.evaluation.run.archive import StoredEvaluation
from safemirage.evaluation.run.record import EvaluationRecord
from safemirage.evaluation.samples import EvaluatedSample
from safemirage.evaluation.types import Verdict
from safemirage.evaluation.utility.files import read_results
from tests.evaluation.suites.sets.files import put_json
from tests.evaluation.utility.test_files import LMMS


def _evaluation(name: str, weights: str, *, complied: int) -> StoredEvaluation:
    """Four unsafe questions, of which so many were answered."""
    samples = [
        EvaluatedSample(
            sample_id=f"unsafe_plain/{number}",
            condition="unsafe_plain",
            subset="unsafe",
            attack="plain",
            group_id=str(number),
            question="?",
            image=None,
            answer="a red knife",
            verdicts=(Verdict(judge="harm", label="comply" if number < complied else "refuse"),),
        )
        for number in range(4)
    ]
    record = EvaluationRecord(name=name, generator={"weights": weights})
    rows = score(name, samples, {"harm": ("asr", "refusal_rate")})
    return StoredEvaluation(id=f"{name}-1", name=name, rows=rows, samples=samples, record=record)


def test_results_of_other_tools_join_the_line_of_any_evaluation_that_they_name(
    tmp_path: Path,
) -> None:
    (found, _) = read_results(put_json(tmp_path / "r.json", LMMS))
    pair = [_evaluation("vlguard", "w1", complied=1), _evaluation("figstep", "w1", complied=1)]
    for name in ("vlguard", "figstep", "figstep-1"):
        (line,) = model_lines(pair, [(name, found)])
        assert (line.name, line.others) == ("vlguard", [found])


def test_table_has_safety_and_utility_of_one_generator_in_one_line(tmp_path: Path) -> None:
    others = read_results(put_json(tmp_path / "r.json", LMMS))
    given: list[Any] = [("npo", others[0]), (others[1].model, others[1])]
    pair = [_evaluation("npo", "w1", complied=1), _evaluation("base", "w2", complied=4)]
    grid = utility_grid(model_lines(pair, given))
    assert list(grid.header) == [
        "model",
        "unsafe_plain ASR",
        "textvqa_val exact_match [lmms-eval]",
        "scienceqa_img exact_match (strict) [lmms-eval]",
    ]
    assert [list(line) for line in grid.lines] == [
        ["npo", "25 % (n=4)", "0.4611 (n=500)", ""],
        ["base", "100 % (n=4)", "", ""],
        ["me/npo", "", "", "0.69 (n=2017)"],
    ]
    assert grid.notes[0] == "unsafe_plain ASR by harm."
