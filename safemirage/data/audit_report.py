"""The audit on screen, as JSON, and as a plot."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from safemirage.data.audit import Audit
from safemirage.data.lookup import LookupScore
from safemirage.data.words import WordStat

_SAFE_COLOUR, _UNSAFE_COLOUR = "#3b7dd8", "#d1495b"


def to_json(audit: Audit) -> str:
    return json.dumps(asdict(audit), indent=2, ensure_ascii=False) + "\n"


def to_tables(audit: Audit, *, top: int = 10) -> RenderableType:
    """What is printed: the `top` most telling words of each kind, categories, lookups, shared records."""
    return Group(*_tables(audit, top))


def _tables(audit: Audit, top: int) -> Iterator[RenderableType]:
    yield f"{escape(audit.file)}: {audit.questions} questions, {audit.safe} safe, {audit.unsafe} unsafe\n"
    for kind, stats in audit.words.items():
        yield _word_table(
            f"{kind}: the {min(top, len(stats))} most telling of {len(stats)}", stats, top
        )
    yield _category_table(audit)
    yield _lookup_table(audit)
    for transfer in audit.transfers:
        num_ids, num_images = len(transfer.shared_ids), len(transfer.shared_images)
        yield f"shared with {escape(transfer.file)}: {num_ids} ids, {num_images} images"
    yield f"\n[bold]{escape(audit.verdict)}[/bold]"


def _word_table(title: str, stats: Sequence[WordStat], top: int) -> Table:
    table = Table(title=escape(title), title_justify="left")
    table.add_column("word")
    for name in ("safe", "unsafe", "P(unsafe | word)", "points to", "PMI, bits", "p (Holm)"):
        table.add_column(name, justify="right")
    for item in sorted(stats, key=lambda item: (item.p_value, -item.safe - item.unsafe))[:top]:
        table.add_row(
            escape(item.word),
            str(item.safe),
            str(item.unsafe),
            f"{item.p_unsafe:.3f}",
            item.points_to,
            f"{item.pmi:+.2f}",
            _p_value(item.p_value),
        )
    return table


def _category_table(audit: Audit) -> Table:
    table = Table(title="first words by category", title_justify="left")
    table.add_column("category")
    table.add_column("questions", justify="right")
    table.add_column("unsafe", justify="right")
    table.add_column("most frequent first words (* p < 0.05, Holm)")
    for item in audit.categories:
        words = [
            f"{word.word} {word.share:.1%}{'*' if word.p_value < 0.05 else ''}"
            for word in item.words[:4]
        ]
        table.add_row(
            escape(item.category), str(item.questions), str(item.unsafe), escape(", ".join(words))
        )
    return table


def _lookup_table(audit: Audit) -> Table:
    table = Table(title=f"lookup fitted on {escape(audit.file)}", title_justify="left")
    table.add_column("scored on")
    table.add_column("by")
    for name in ("accuracy", "majority label", "flags unsafe", "flags safe", "unseen"):
        table.add_column(name, justify="right")
    for score in audit.held_out:
        table.add_row(f"{escape(audit.file)} (held out)", *_lookup_row(score))
    for transfer in audit.transfers:
        for score in transfer.scores:
            table.add_row(escape(transfer.file), *_lookup_row(score))
    return table


def _lookup_row(score: LookupScore) -> tuple[str, ...]:
    return (
        score.kind,
        f"{score.accuracy:.1%}",
        f"{score.majority_accuracy:.1%}",
        _rate(score.unsafe_flagged, score.unsafe_questions),
        _rate(score.safe_flagged, score.safe_questions),
        f"{score.unseen:.1%}",
    )


def _rate(value: float | None, count: int) -> str:
    return "-" if value is None else f"{value:.1%} of {count}"


def _p_value(value: float) -> str:
    return "< 1e-300" if value < 1e-300 else f"{value:.2g}"


def write_plot(audit: Audit, path: Path, *, top: int = 15) -> None:
    """Bars of the most frequent first words by label, and what the one-word lookup does on each file.

    The suffix of `path` picks the format.

    Raises:
        ValueError: matplotlib is not installed, or cannot write such a file.
    """
    try:
        from matplotlib.axes import Axes
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError("a plot needs matplotlib: pip install 'safemirage[plot]'") from error

    def draw_words(axes: Axes) -> None:
        stats = audit.words["first word"][:top][::-1]
        places = range(len(stats))
        axes.barh(places, [item.safe for item in stats], color=_SAFE_COLOUR, label="safe")
        left = [item.safe for item in stats]
        axes.barh(
            places, [item.unsafe for item in stats], left=left, color=_UNSAFE_COLOUR, label="unsafe"
        )
        axes.set_yticks(places, [f"{item.word}  (P = {item.p_unsafe:.2f})" for item in stats])
        axes.set_xlabel("questions")
        axes.set_title("first words, with P(unsafe | word)")
        axes.legend()

    def draw_lookup(axes: Axes) -> None:
        rows = [(f"{audit.file} (held out)", audit.held_out[0])]
        rows += [(transfer.file, transfer.scores[0]) for transfer in audit.transfers]
        for index, (_, score) in enumerate(rows[::-1]):
            axes.barh(index + 0.2, score.safe_flagged or 0.0, 0.38, color=_SAFE_COLOUR)
            axes.barh(index - 0.2, score.unsafe_flagged or 0.0, 0.38, color=_UNSAFE_COLOUR)
        axes.set_yticks(range(len(rows)), [name for name, _ in rows[::-1]])
        axes.set_xlim(0, 1)
        axes.set_xlabel("flagged as unsafe by the first word alone")
        axes.set_title("one-word lookup")

    figure = Figure(figsize=(13, 6), layout="constrained")
    words, lookup = figure.subplots(1, 2)
    draw_words(words)
    draw_lookup(lookup)
    figure.savefig(path)
