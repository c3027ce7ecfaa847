"""A probe in files: report.* as of any evaluations, compare.* against the export as it is, probe.json, curves.md."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safemirage.evaluation.metrics.gap import condition_gaps
from safemirage.evaluation.reports.comparison import write_comparison
from safemirage.evaluation.reports.figures import Figure
from safemirage.evaluation.reports.grid import Grid, to_markdown
from safemirage.evaluation.reports.report import ReportInput, ReportModel, write_report
from safemirage.files import write_text
from safemirage.probes.measuring import Measured
from safemirage.store.database import Store

CURVES, PROBE = "curves.md", "probe.json"


@dataclass(frozen=True, kw_only=True)
class Curves:
    """What a probe that follows something over steps shows beside the tables."""

    grid: Grid
    figures: Sequence[Figure]


def write_probe(
    store: Store, measured: Measured, folder: Path, *, version: str, curves: Curves | None = None
) -> list[Path]:
    """Writes the files into `folder`, each put in place whole; returns them."""
    models = [
        ReportModel(
            name=one.name,
            evaluation_id=one.id,
            says=point.says,
            config=one.record.config,
        )
        for point, one in zip(measured.points, measured.evaluations, strict=True)
    ]
    given = ReportInput(
        title=f"Probe {measured.probe}: {measured.points[0].name}",
        models=models,
        versions={"safemirage": version},
        curves=curves.figures if curves is not None else (),
    )
    report = write_report(store, given, folder)
    written = [report.html, report.markdown, report.latex, report.json]
    written += write_comparison(
        store, measured.comparison, condition_gaps(measured.comparison.evaluations), folder
    )
    if curves is not None:
        write_text(folder / CURVES, to_markdown(curves.grid))
        written.append(folder / CURVES)
    write_text(folder / PROBE, json.dumps(measured.tree(), indent=1, allow_nan=False))
    return [*written, folder / PROBE]
