"""Tables as Markdown and LaTeX: what stands in a cell cannot end it."""

from safemirage.evaluation.reports.grid import Grid, to_latex, to_markdown

GRID = Grid(
    title="A & B",
    header=["model", "ASR | after “what”"],
    lines=[["npo_0.1", "50 % → 1"], ["a|b", "x\ny"]],
    notes=["n = 100 %."],
)


def test_markdown_has_a_line_a_row_and_escapes_bars() -> None:
    assert to_markdown(GRID).splitlines() == [
        "## A & B",
        "",
        "| model | ASR \\| after “what” |",
        "| --- | ---: |",
        "| npo_0.1 | 50 % → 1 |",
        "| a\\|b | x y |",
        "",
        "n = 100 %.",
    ]


def test_latex_escapes_what_it_would_read_as_commands() -> None:
    text = to_latex(GRID)
    assert r"\caption{A \& B. n = 100 \%.}" in text
    assert r"\begin{tabular}{lr}" in text
    assert r"npo\_0.1 & 50 \% $\rightarrow$ 1 \\" in text
    assert "ASR | after ``what''" in text
    assert r"\textbackslash{}input\{x\}" in to_latex(
        Grid(title="t", header=["a"], lines=[["\\input{x}"]])
    )
