"""A table for the terminal that may be wider than it: what does not fit stands in blocks below each other.

No number is cut or broken; words wrap, and a name breaks after `_`, `-` and the like.
"""

import re
from collections.abc import Iterator, Sequence

from rich import box
from rich.cells import cell_len, chop_cells
from rich.console import Console, ConsoleOptions
from rich.table import Table
from rich.text import Text

_GAP = 2
"""Spaces between two columns."""
_LEAST = 8
"""What a column is not made narrower than, where it holds longer lines."""
_LONGEST_WORD = 20
_AFTER_MARK = re.compile(r"(?<=[_/.:-])")


class WideTable:
    """A table that a rich console prints as wide as it allows.

    Args:
        keys: how many of the first columns name a line; each block repeats them.
    """

    def __init__(
        self, header: Sequence[str], lines: Sequence[Sequence[str]], *, keys: int = 1
    ) -> None:
        self.header = header
        self.lines = lines
        self.keys = keys

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table | str]:
        for place, table in enumerate(
            _blocks(self.header, self.lines, self.keys, options.max_width)
        ):
            if place:
                yield ""
            yield table


def _blocks(
    header: Sequence[str], lines: Sequence[Sequence[str]], keys_count: int, width: int
) -> list[Table]:
    columns = [
        _Column([heading, *(line[place] for line in lines)]) for place, heading in enumerate(header)
    ]
    keys, others = columns[:keys_count], columns[keys_count:]
    blocks: list[list[_Column]] = []
    for column in others:
        if not blocks or _total([*keys, *blocks[-1], column]) > width:
            blocks.append([])
        blocks[-1].append(column)
    return [_table([*keys, *block], width) for block in blocks or [[]]]


class _Column:
    """A column's texts, heading first, and the widths between which it can be drawn."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts
        self.has_numbers = any(_is_number(text.split(maxsplit=1)[0]) for text in texts[1:] if text)
        lines = [line for text in texts for line in text.split("\n")]
        self.most = max(map(cell_len, lines))
        pieces = [piece.rstrip() for line in lines for piece in _pieces(line)]
        longest = max(map(cell_len, pieces), default=0)
        self.least = min(self.most, max(longest, _LEAST))

    def wrapped(self, place: int, width: int) -> str:
        return "\n".join(
            piece for line in self.texts[place].split("\n") for piece in _wrap(line, width)
        )


def _total(columns: Sequence[_Column]) -> int:
    return sum(column.least for column in columns) + _GAP * (len(columns) - 1)


def _table(columns: Sequence[_Column], width: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    widths = _widths(columns, width)
    for column, room in zip(columns, widths, strict=True):
        table.add_column(
            Text(column.wrapped(0, room), style="bold"),
            justify="right" if column.has_numbers else "left",
            width=room,
            no_wrap=True,
        )
    for place in range(1, len(columns[0].texts)):
        cells = zip(columns, widths, strict=True)
        table.add_row(*[Text(column.wrapped(place, room)) for column, room in cells])
    return table


def _widths(columns: Sequence[_Column], width: int) -> list[int]:
    """The least that each column needs, and what is left over shared out evenly among those that could use more."""
    widths = [column.least for column in columns]
    spare = width - _total(columns)
    while spare > 0 and widths != [column.most for column in columns]:
        for place, column in enumerate(columns):
            if spare > 0 and widths[place] < column.most:
                widths[place] += 1
                spare -= 1
    return widths


def _wrap(line: str, width: int) -> list[str]:
    """The line's pieces in lines of at most `width`, as long as no piece is longer."""
    lines = [""]
    for piece in _pieces(line):
        if lines[-1] and cell_len((lines[-1] + piece).rstrip()) > width:
            lines[-1] = lines[-1].rstrip()
            lines.append("")
        lines[-1] += piece
    return [text.rstrip() for text in lines]


def _pieces(line: str) -> list[str]:
    """What a line may be broken after: words; in names `_`, `-` and the like; a long word anywhere, but never a number."""
    pieces = []
    for word in re.findall(r"\S+\s*", line):
        if _is_number(word):
            pieces.append(word)
        else:
            for part in _AFTER_MARK.split(word):
                pieces += chop_cells(part, _LONGEST_WORD)
    return pieces


def _is_number(word: str) -> bool:
    """Digits and signs alone, as in `(+8.5`, `12/34` or `100.0)`."""
    return any(map(str.isdigit, word)) and not any(map(str.isalpha, word))
