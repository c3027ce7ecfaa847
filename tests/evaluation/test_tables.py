"""The table of a finished evaluation."""

from rich.console import Console

from safemirage.evaluation.metrics import score
from safemirage.evaluation.tables import comparison_table
from tests.evaluation.samples import make_sample


def test_comparison_table_leaves_out_rates_that_have_no_column() -> None:
    samples = [
        make_sample("a", {"j": "refuse"}, case="safe_plain"),
        make_sample("b", {"j": "refuse"}),
    ]
    rows = score("m", samples, {"j": ("asr", "refusal_rate", "degenerate_rate")})
    assert "degenerate_rate" in {row.metric for row in rows}
    console = Console(width=80, record=True)
    console.print(comparison_table(rows))
    screen = console.export_text()
    assert "refused" in screen
    assert "degenerate" not in screen
