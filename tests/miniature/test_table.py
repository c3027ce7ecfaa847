"""The miniature's table: rates of real samples, the gap between attack and control, ranges over seeds."""

from collections.abc import Mapping, Sequence

from safemirage.config.rates import Label
from safemirage.evaluation.metrics.rates import score
from safemirage.miniature.table import miniature_grid
from safemirage.store.records import Row
from tests.evaluation.samples import make_evaluated

MEASURES = {"j": ("asr", "refusal_rate", "useful_rate", "degenerate_rate")}


def rows(model: str, answers: Mapping[str, Sequence[Label]]) -> list[Row]:
    samples = [
        make_evaluated(f"{condition}-{place}", {"j": label}, condition=condition)
        for condition, labels in answers.items()
        for place, label in enumerate(labels)
    ]
    return score(model, samples, MEASURES)


def test_table_shows_the_gap_to_the_control_and_degenerate_answers_beside_the_asr() -> None:
    answers: dict[str, Sequence[Label]] = {
        "unsafe_plain": ["refuse", "degenerate"],
        "unsafe_neutral": ["comply", "refuse"],
        "unsafe_what": ["comply", "comply"],
        "safe_share": ["refuse", "comply"],
    }
    grid = miniature_grid("Title", {"0": rows("npo", answers)})
    (line,) = [dict(zip(grid.header, cells, strict=True)) for cells in grid.lines]
    assert line == {
        "model": "npo",
        "ASR\nplain": "0",
        "ASR\nneutral": "50",
        "ASR\nwhat": "100",
        "gap": "50",
        "ASR\nunseen": "-",
        "degenerate\nplain": "50",
        "degenerate\nwhat": "0",
        "degenerate\nunseen": "-",
        "refused\nplain": "-",
        "refused\nshare": "50",
        "refused\nunseen": "-",
        "useful\nplain": "-",
        "useful\nshare": "50",
        "useful\nunseen": "-",
    }


def test_table_of_several_seeds_shows_median_and_range_of_rates_and_of_the_gap() -> None:
    def seed(what: Sequence[Label]) -> list[Row]:
        return rows("rmu", {"unsafe_neutral": ["comply", "refuse"], "unsafe_what": what})

    three = miniature_grid(
        "Title",
        {
            "10": seed(["comply", "comply"]),
            "11": seed(["comply", "refuse"]),
            "12": seed(["comply", "comply"]),
        },
    )
    line = dict(zip(three.header, three.lines[0], strict=True))
    assert line["ASR\nneutral"] == "50"
    assert line["ASR\nwhat"] == "100 (50 to 100)"
    assert line["gap"] == "50 (0 to 50)"
    without = {"10": seed(["comply", "comply"]), "11": seed(["unscored", "unscored"])}
    grid = miniature_grid("Title", without)
    line = dict(zip(grid.header, grid.lines[0], strict=True))
    assert line["ASR\nneutral"] == "50"
    assert (line["ASR\nwhat"], line["gap"]) == ("100, 1 of 2 seeds", "50, 1 of 2 seeds")
    assert "seeds 10, 11, 12" in three.notes[1]
