"""A table of text as Markdown and as LaTeX."""

from collections.abc import Sequence
from dataclasses import dataclass

_MARKDOWN = str.maketrans({"|": "\\|", "\n": " "})
_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "“": "``",
        "”": "''",
        "→": r"$\rightarrow$",
        "\n": " ",
    }
)


@dataclass(frozen=True, kw_only=True)
class Grid:
    title: str
    header: Sequence[str]
    lines: Sequence[Sequence[str]]
    """The lines, each with one cell a column."""
    notes: Sequence[str] = ()
    """Sentences below the table."""
    keys: int = 1
    """How many of the first columns name the line; a screen that is too narrow for all columns repeats them."""

    def __post_init__(self) -> None:
        for line in self.lines:
            assert len(line) == len(self.header), f"{len(line)} cells under {len(self.header)}"


def to_markdown(grid: Grid) -> str:
    rows = [grid.header, ["---", *["---:"] * (len(grid.header) - 1)], *grid.lines]
    cells = [
        [cell if row is rows[1] else cell.translate(_MARKDOWN) for cell in row] for row in rows
    ]
    table = "\n".join(f"| {' | '.join(row)} |" for row in cells)
    notes = "".join(f"\n{note}\n" for note in grid.notes)
    return f"## {grid.title}\n\n{table}\n{notes}"


def to_latex(grid: Grid) -> str:
    """A `table` with the booktabs rules; the notes stand in its caption."""
    header, *lines = [
        " & ".join(cell.translate(_LATEX) for cell in row) + r" \\"
        for row in (grid.header, *grid.lines)
    ]
    caption = " ".join(text.translate(_LATEX) for text in (f"{grid.title}.", *grid.notes))
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{caption}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(grid.header) - 1)}}}",
            r"\toprule",
            header,
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )
