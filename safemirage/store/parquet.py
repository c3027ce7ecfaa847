"""An evaluation as Parquet files: samples.parquet, verdicts.parquet, and images.parquet where they are wanted.

    export_evaluation(store, "npo-1a2b", folder)
    import_evaluation(store, folder)

A column a field of the samples, one line a sample, so that pandas, DuckDB and the like read them. What is neither text,
number nor truth value (a sample's `truth`) is JSON, and its column says so. Spec and table stand in the metadata of
samples.parquet. What comes back is equal to what went out.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safemirage.config.loading.load import ConfigError
from safemirage.files import whole_file
from safemirage.store.database import Store
from safemirage.store.evaluations import Evaluation

if TYPE_CHECKING:
    import pyarrow as pa

SAMPLES, VERDICTS, IMAGES = "samples.parquet", "verdicts.parquet", "images.parquet"
FORMAT = "1"
_META, _JSON = b"safemirage", b"json"
Record = dict[str, Any]


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
    samples = store.evaluations.samples(evaluation_id)
    verdicts = [
        {"position": sample["position"], "place": place, **verdict}
        for sample in samples
        for place, verdict in enumerate(sample["verdicts"])
    ]
    plain = [{key: value for key, value in one.items() if key != "verdicts"} for one in samples]
    _write(folder / SAMPLES, plain, meta=_meta(evaluation))
    _write(folder / VERDICTS, verdicts)
    written = [folder / SAMPLES, folder / VERDICTS]
    if with_images:
        digests = sorted({one["image"] for one in plain if one.get("image")})
        found = {digest: store.samples.image(digest) for digest in digests}
        images = [{"digest": digest, "data": data} for digest, data in found.items() if data]
        _write(folder / IMAGES, images)
        written.append(folder / IMAGES)
    return written


def import_evaluation(store: Store, folder: Path) -> Evaluation:
    """The evaluation in the store, finished, under its own id; one that is there already must be the same.

    Raises:
        ConfigError: the files are missing, not ours, or do not fit together.
        IdempotencyConflict: the store has another evaluation of that id.
    """
    samples, meta = _read(folder / SAMPLES)
    verdicts, _ = _read(folder / VERDICTS)
    head = _head(folder, meta)
    by_position: dict[int, Record] = {
        one.pop("position"): {**one, "verdicts": []} for one in samples
    }
    for verdict in sorted(verdicts, key=lambda one: (one["position"], one.pop("place"))):
        position = verdict.pop("position")
        if position not in by_position:
            raise ConfigError(f"{folder / VERDICTS}: position {position} is not in {SAMPLES}")
        by_position[position]["verdicts"].append(verdict)
    if (folder / IMAGES).is_file():
        images, _ = _read(folder / IMAGES)
        store.samples.put_images({image["digest"]: image["data"] for image in images})
    return store.evaluations.adopt(
        head["id"], spec=head["spec"], rows=head["rows"], samples=by_position
    )


def _meta(evaluation: Evaluation) -> Record:
    return {
        "format": FORMAT,
        "id": evaluation.id,
        "spec": evaluation.spec,
        "rows": evaluation.rows,
    }


def _head(folder: Path, meta: Record | None) -> Record:
    if meta is None or meta.get("format") != FORMAT:
        found = meta.get("format") if meta else None
        raise ConfigError(
            f"{folder / SAMPLES}: is of format {found!r}, this safemirage reads {FORMAT!r}: "
            "the files of safemirage export"
        )
    return meta


def _write(path: Path, records: Sequence[Mapping[str, Any]], *, meta: Record | None = None) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    names = list(dict.fromkeys(name for record in records for name in record))
    columns = {name: _column(name, records) for name in names}
    fields = [
        pa.field(name, column.type, metadata={_JSON: b"1"} if is_json else None)
        for name, (column, is_json) in columns.items()
    ]
    schema = pa.schema(fields, metadata={_META: json.dumps(meta).encode()} if meta else None)
    table = pa.table([column for column, _ in columns.values()], schema=schema)
    with whole_file(path) as draft:
        parquet.write_table(table, draft, compression="zstd")


def _column(name: str, records: Sequence[Mapping[str, Any]]) -> tuple["pa.Array", bool]:
    """One field of the records as a column, and whether it is JSON text, in which null says that a record lacks it."""
    import pyarrow as pa

    types = {
        frozenset({bool}): pa.bool_(),
        frozenset({int}): pa.int64(),
        frozenset({float}): pa.float64(),
        frozenset({bytes}): pa.binary(),
        frozenset({str}): pa.string(),
        frozenset(): pa.string(),
    }
    kinds = {type(record[name]) for record in records if record.get(name) is not None}
    kind = types.get(frozenset(kinds))
    if kind is None or not all(name in record for record in records):
        texts = [json.dumps(record[name]) if name in record else None for record in records]
        return pa.array(texts, pa.string()), True
    return pa.array([record[name] for record in records], kind), False


def _read(path: Path) -> tuple[list[Record], Record | None]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise ConfigError(f"{path}: cannot be read as Parquet: {error}") from error
    encoded = {field.name for field in table.schema if (field.metadata or {}).get(_JSON)}
    records: list[Record] = table.to_pylist()
    for record in records:
        for name in encoded:
            text = record.pop(name)
            if text is not None:
                record[name] = json.loads(text)
    meta = (table.schema.metadata or {}).get(_META)
    return records, json.loads(meta) if meta else None
