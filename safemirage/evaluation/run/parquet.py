"""An evaluation as Parquet files: samples.parquet, verdicts.parquet, and images.parquet where they are wanted.

    export_evaluation(store, "npo-1a2b", folder)
    import_evaluation(store, folder)

One line a sample, and one a verdict; their columns are the fields of `Sample` and `Verdict`, so that pandas, DuckDB and
the like read them. A mapping (a sample's `target`) is JSON text, and its column says so. Spec and table stand in the
metadata of samples.parquet. What comes back is equal to what went out.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from safemirage.config.loading.load import ConfigError, build_config
from safemirage.evaluation.types import (
    EvaluatedSample,
    Verdict,
    evaluated_from,
    evaluated_tree,
    verdict_tree,
)
from safemirage.files import whole_file
from safemirage.store.database import Store
from safemirage.store.evaluations import Evaluation
from safemirage.store.records import EvaluationRecord, Row

if TYPE_CHECKING:
    import pyarrow as pa

SAMPLES, VERDICTS, IMAGES = "samples.parquet", "verdicts.parquet", "images.parquet"
FORMAT = "1"
_META, _JSON = b"safemirage", b"json"
_NAMES = {str: "string", int: "int64", float: "float64", bool: "bool", bytes: "binary"}
"""What Arrow calls the types that a record's fields have."""
Line = dict[str, Any]


def export_evaluation(
    store: Store, evaluation_id: str, folder: Path, *, with_images: bool = True
) -> list[Path]:
    """Writes the files of a finished evaluation; returns them.

    Raises:
        ConfigError: it is not there or not finished.
    """
    evaluation = store.evaluations.get(evaluation_id)
    if evaluation is None or evaluation.state != "finished":
        state = evaluation.state if evaluation else "not in the store"
        raise ConfigError(
            f"evaluation {evaluation_id!r} is {state}; only finished ones are exported"
        )
    stored = store.evaluations.samples(evaluation_id)
    samples = {one["position"]: evaluated_from(one) for one in stored}
    meta = {
        "format": FORMAT,
        "id": evaluation.id,
        "spec": evaluation.record_tree,
        "rows": evaluation.row_trees,
    }
    _write(folder / SAMPLES, _sample_columns(), _sample_lines(samples), meta=meta)
    _write(folder / VERDICTS, _verdict_columns(), _verdict_lines(samples))
    if not with_images:
        return [folder / SAMPLES, folder / VERDICTS]
    digests = sorted({one.image for one in samples.values() if one.image})
    found = {digest: store.samples.image(digest) for digest in digests}
    images = [{"digest": digest, "data": data} for digest, data in found.items() if data]
    _write(folder / IMAGES, {"digest": str, "data": bytes}, images)
    return [folder / SAMPLES, folder / VERDICTS, folder / IMAGES]


def import_evaluation(store: Store, folder: Path) -> Evaluation:
    """The evaluation in the store, finished, under its own id; one that is there already must be the same.

    Raises:
        ConfigError: the files are missing, not ours, or do not fit together.
        IdempotencyConflict: the store has another evaluation of that id.
    """
    lines, meta = _read(folder / SAMPLES)
    if meta is None or meta.get("format") != FORMAT:
        found = meta.get("format") if meta else None
        raise ConfigError(
            f"{folder / SAMPLES}: is of format {found!r}, this safemirage reads {FORMAT!r}: "
            "the files of safemirage export"
        )
    trees: dict[int, Line] = {line.pop("position"): {**line, "verdicts": []} for line in lines}
    verdicts, _ = _read(folder / VERDICTS)
    for verdict in sorted(verdicts, key=lambda line: (line["position"], line.pop("place"))):
        position, _ = verdict.pop("position"), verdict.pop("sample_id")
        if position not in trees:
            raise ConfigError(f"{folder / VERDICTS}: position {position} is not in {SAMPLES}")
        trees[position]["verdicts"].append(verdict)
    samples = {
        position: evaluated_tree(
            build_config(EvaluatedSample, tree, source=f"{folder / SAMPLES}: position {position}")
        )
        for position, tree in trees.items()
    }
    if (folder / IMAGES).is_file():
        images, _ = _read(folder / IMAGES)
        store.samples.put_images({image["digest"]: image["data"] for image in images})
    return store.evaluations.adopt(
        meta["id"],
        record=build_config(EvaluationRecord, meta["spec"], source=f"{folder / SAMPLES}: spec"),
        rows=[build_config(Row, row, source=f"{folder / SAMPLES}: rows") for row in meta["rows"]],
        samples=samples,
    )


def _sample_columns() -> dict[str, Any]:
    columns = {"position": int, **_types(EvaluatedSample)}
    del columns["verdicts"]
    return columns


def _verdict_columns() -> dict[str, Any]:
    return {"position": int, "sample_id": str, "place": int, **_types(Verdict)}


def _types(record: type) -> dict[str, Any]:
    hints = get_type_hints(record)
    return {item.name: hints[item.name] for item in fields(record)}


def _sample_lines(samples: Mapping[int, EvaluatedSample]) -> list[Line]:
    return [
        {"position": position, **vars(sample), "target": json.dumps(dict(sample.target))}
        for position, sample in samples.items()
    ]


def _verdict_lines(samples: Mapping[int, EvaluatedSample]) -> list[Line]:
    """A line a verdict; `place` is its judge's place in the evaluation's order of judges."""
    return [
        {"position": position, "sample_id": sample.sample_id, "place": place}
        | verdict_tree(verdict)
        for position, sample in samples.items()
        for place, verdict in enumerate(sample.verdicts)
    ]


def _write(
    path: Path, columns: Mapping[str, Any], lines: Sequence[Line], *, meta: Line | None = None
) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    metadata = {_META: json.dumps(meta).encode()} if meta else None
    schema = pa.schema([_field(name, kind) for name, kind in columns.items()], metadata=metadata)
    with whole_file(path) as draft:
        parquet.write_table(pa.Table.from_pylist(lines, schema), draft, compression="zstd")


def _field(name: str, kind: Any) -> "pa.Field":
    """The column of a field of this type: what may be None, and texts out of a fixed set, included."""
    import pyarrow as pa

    if get_origin(kind) in (Union, UnionType):
        (kind,) = (one for one in get_args(kind) if one is not NoneType)
    if get_origin(kind) is Literal:
        kind = str
    if get_origin(kind) is Mapping:
        return pa.field(name, pa.string(), metadata={_JSON: b"1"})
    return pa.field(name, pa.type_for_alias(_NAMES[kind]))


def _read(path: Path) -> tuple[list[Line], Line | None]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise ConfigError(f"{path}: cannot be read as Parquet: {error}") from error
    encoded = {field.name for field in table.schema if (field.metadata or {}).get(_JSON)}
    lines: list[Line] = table.to_pylist()
    for line in lines:
        line.update({name: json.loads(line[name]) for name in encoded})
    meta = (table.schema.metadata or {}).get(_META)
    return lines, json.loads(meta) if meta else None
