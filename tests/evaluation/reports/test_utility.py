"""The table of safety and utility: a line a model, told by its weights; no cell is filled twice."""

from typing import Any

import pytest

from safemirage.config.rates import Label
from safemirage.evaluation.errors import EvaluationError
from safemirage.evaluation.metrics.rates import StoredEvaluation, score
from safemirage.evaluation.reports.utility import model_lines, utility_grid
from safemirage.evaluation.utility.files import OtherScore, ResultFile
from safemirage.store.records import EvaluationRecord
from tests.evaluation.samples import make_evaluated


def _evaluation(
    name: str, complied: int, suite: str = "vlguard", **generator: Any
) -> StoredEvaluation:
    """Four unsafe questions, of which so many were answered."""
    labels: list[Label] = ["comply"] * complied + ["refuse"] * (4 - complied)
    samples = [make_evaluated(str(n), {"harm": label}) for n, label in enumerate(labels)]
    record = EvaluationRecord(name=name, suite=suite, generator=generator)
    rows = score(name, samples, {"harm": ("asr", "refusal_rate")})
    return StoredEvaluation(id=f"{name}-1", name=name, rows=rows, samples=samples, record=record)


def _file(model: str, *weights: str, task: str = "textvqa_val", value: float = 0.5) -> ResultFile:
    found = OtherScore(
        tool="lmms-eval",
        model=model,
        task=task,
        metric="exact_match",
        value=value,
        error=0.0123,
        n=500,
        file=f"{model}_{task}.json",
    )
    return ResultFile(model=model, weights=weights, scores=(found,))


def test_evaluations_and_files_of_the_same_weights_stand_in_one_line() -> None:
    evaluations = [
        _evaluation("vlguard", 1, weights="merged"),
        _evaluation("figstep", 4, suite="figstep", weights_digest="adapter"),
        _evaluation("halved", 2, weights="merged", adapter_scale="0.5"),
    ]
    files = [
        _file("npo", "adapter", "merged"),
        _file("npo again", "merged", task="vqav2_val"),
        _file("other"),
    ]
    grid = utility_grid(model_lines(evaluations, files))
    assert list(grid.header) == [
        "model",
        "vlguard\nASR\nunsafe plain",
        "figstep\nASR\nunsafe plain",
        "textvqa_val\nexact_match\n[lmms-eval]",
        "vqav2_val\nexact_match\n[lmms-eval]",
    ]
    measured = "0.5\n±0.012\nn=500"
    assert [list(line) for line in grid.lines] == [
        ["npo", "25 %\n5-70\nn=4", "100 %\n51-100\nn=4", measured, measured],
        ["other", "", "", measured, ""],
        ["halved", "50 %\n15-85\nn=4", "", "", ""],
    ]
    assert "Judges: harm (ASR)." in grid.notes[0]


def test_a_number_that_two_sources_have_is_refused_by_their_names() -> None:
    first, second = _evaluation("a", 1, weights="w"), _evaluation("b", 2, weights="w")
    with pytest.raises(EvaluationError, match=r"vlguard ASR unsafe plain: both a-1 and b-1 .*--ev"):
        model_lines([first, second], [])
    with pytest.raises(EvaluationError, match=r"both npo_textvqa_val.json and npo2_textvqa_val"):
        model_lines([], [_file("npo", "w"), _file("npo2", "w", value=0.6)])
