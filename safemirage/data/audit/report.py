"""The audit on screen and as a plot."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.markup import escape

from safemirage.data.audit.audit import Audit
from safemirage.data.audit.lookup import LookupScore
from safemirage.data.audit.pictures import PictureAudit
from safemirage.data.audit.words import WordStat
from safemirage.text.numbers import percent
from safemirage.text.wide_table import WideTable

PLOT_FORMATS = (".pdf", ".png", ".svg")

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LOOKUP_HEADER = ["by", "accuracy", "majority label", "flags unsafe", "flags safe", "unseen"]
_SHOWN = 3
_SAFE_COLOUR, _UNSAFE_COLOUR = "#3b7dd8", "#d1495b"


def to_tables(audit: Audit, *, top: int = 10) -> RenderableType:
    """What is printed: the `top` most telling words of each kind, categories, lookups, shared records."""
    return Group(*_tables(audit, top))


def _tables(audit: Audit, top: int) -> Iterator[RenderableType]:
    yield f"{escape(audit.file)}: {audit.questions} questions, {audit.safe} safe, {audit.unsafe} unsafe\n"
    for kind, stats in audit.words.items():
        yield f"{kind}: the {min(top, len(stats))} most telling of {len(stats)}"
        yield _word_table(stats, top)
    yield "\nfirst words by category"
    yield _category_table(audit)
    yield f"\nlookup fitted on {escape(audit.file)}"
    yield _lookup_table(audit)
    for transfer in audit.transfers:
        num_ids, num_images = len(transfer.shared_ids), len(transfer.shared_images)
        yield f"shared with {escape(transfer.file)}: {num_ids} ids, {num_images} images"
    if audit.pictures is not None:
        yield f"\nlookup by one feature of {audit.pictures.pictures} pictures, held out"
        yield WideTable(_LOOKUP_HEADER, [_lookup_row(one) for one in audit.pictures.held_out])
        yield _duplicates(audit.pictures)
    yield f"\n[bold]{escape(audit.verdict)}[/bold]"


def _duplicates(found: PictureAudit) -> str:
    """How many pictures look alike across labels and files, and the first few."""
    lines = []
    for where, pairs in {
        "a safe and an unsafe picture": found.across_labels,
        **found.shared,
    }.items():
        some = "; ".join(f"{one.first} and {one.second}" for one in pairs[:_SHOWN])
        more = "; ..." if len(pairs) > _SHOWN else ""
        said = f"near-duplicates, {where}: {len(pairs)}{': ' if pairs else ''}{some}{more}"
        lines.append(escape(said))
    return "\n".join(lines)


def _word_table(stats: Sequence[WordStat], top: int) -> WideTable:
    header = ["word", "safe", "unsafe", "P(unsafe | word)", "points to", "PMI, bits", "p (Holm)"]
    lines = [
        [
            item.word,
            str(item.safe),
            str(item.unsafe),
            f"{item.p_unsafe:.3f}",
            item.points_to,
            f"{item.pmi:+.2f}",
            _p_value(item.p_value),
        ]
        for item in sorted(stats, key=lambda item: (item.p_value, -item.safe - item.unsafe))[:top]
    ]
    return WideTable(header, lines)


def _category_table(audit: Audit) -> WideTable:
    header = ["category", "questions", "unsafe", "most frequent first words (* p < 0.05, Holm)"]
    lines = []
    for item in audit.categories:
        words = [
            f"{word.word} {percent(word.share)}{'*' if word.p_value < 0.05 else ''}"
            for word in item.words[:4]
        ]
        lines.append([item.category, str(item.questions), str(item.unsafe), ", ".join(words)])
    return WideTable(header, lines)


def _lookup_table(audit: Audit) -> WideTable:
    lines = [[f"{audit.file} (held out)", *_lookup_row(score)] for score in audit.held_out]
    for transfer in audit.transfers:
        lines += [[transfer.file, *_lookup_row(score)] for score in transfer.scores]
    return WideTable(["scored on", *_LOOKUP_HEADER], lines, keys=2)


def _lookup_row(score: LookupScore) -> tuple[str, ...]:
    return (
        score.kind,
        percent(score.accuracy),
        percent(score.majority_accuracy),
        _rate(score.unsafe_flagged, score.unsafe_questions),
        _rate(score.safe_flagged, score.safe_questions),
        percent(score.unseen),
    )


def _rate(value: float | None, count: int) -> str:
    return "-" if value is None else f"{percent(value)} of {count}"


def _p_value(value: float) -> str:
    return "< 1e-300" if value < 1e-300 else f"{value:.2g}"


def write_plot(audit: Audit, path: Path, *, top: int = 15) -> None:
    """Bars of the most frequent first words by label, and what the one-word lookup does on each file.

    The suffix of `path` picks the format, one of `PLOT_FORMATS`.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 6), layout="constrained")
    words, lookup = figure.subplots(1, 2)
    _draw_words(words, audit.words["first word"][:top][::-1])
    rows = [(transfer.file, transfer.scores[0]) for transfer in audit.transfers]
    _draw_lookup(lookup, [(f"{audit.file} (held out)", audit.held_out[0]), *rows][::-1])
    figure.savefig(path)


def _draw_words(axes: "Axes", stats: Sequence[WordStat]) -> None:
    places = range(len(stats))
    safe, unsafe = [item.safe for item in stats], [item.unsafe for item in stats]
    axes.barh(places, safe, color=_SAFE_COLOUR, label="safe questions")
    axes.barh(places, unsafe, left=safe, color=_UNSAFE_COLOUR, label="unsafe questions")
    axes.set_yticks(places, [f"{item.word}  (P = {item.p_unsafe:.2f})" for item in stats])
    axes.set_xlabel("questions")
    axes.set_title("first words, with P(unsafe | word)")
    axes.legend(loc="lower right")


def _draw_lookup(axes: "Axes", rows: Sequence[tuple[str, LookupScore]]) -> None:
    for index, (_, score) in enumerate(rows):
        bars = (
            (0.2, score.safe_flagged, score.safe_questions, _SAFE_COLOUR),
            (-0.2, score.unsafe_flagged, score.unsafe_questions, _UNSAFE_COLOUR),
        )
        for offset, rate, count, colour in bars:
            if rate is not None:
                axes.barh(index + offset, rate, 0.38, color=colour)
                axes.text(rate + 0.01, index + offset, _rate(rate, count), va="center")
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_xlim(0, 1.25)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.set_xlabel("flagged as unsafe by the first word alone")
    axes.set_title("one-word lookup")
