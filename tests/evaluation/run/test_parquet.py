"""Evaluations to Parquet and back, between stores."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from safemirage.config import ConfigError
from safemirage.evaluation.run.parquet import export_evaluation, import_evaluation
from safemirage.evaluation.types import EvaluatedSample, Verdict, evaluated_tree
from safemirage.store import Store, open_store
from safemirage.store.evaluations import IdempotencyConflict
from safemirage.store.records import EvaluationRecord, Row
from tests.evaluation.samples import make_evaluated

SPEC = EvaluationRecord(name="m", suite="s", config={"sample": None})
ROWS = [
    Row(
        model="m", condition="unsafe_plain", metric="asr", value=0.5, low=None, high=None, n=2,
        judge="oracle", unscored=1,
    )
]  # fmt: skip


def _sample(index: int, **fields: Any) -> EvaluatedSample:
    verdicts = (
        Verdict(judge="oracle", label="comply", reason="names “it”"),
        Verdict(judge="guard", label="unscored", retry=True, paper_label="refuse"),
    )
    given: dict[str, Any] = {
        "image": "d1" if index else None,
        "answer": "a | red “cup” \0" if index else None,
        "verdicts": verdicts[: index + 1],
    }
    sample = make_evaluated(
        f"s{index}", {}, question="share\nit", target={"kind": "cup"} if index else {}
    )
    return replace(sample, **{**given, **fields})


def _fill(store: Store, samples: list[EvaluatedSample], *, finish: bool = True) -> None:
    trees = {position: evaluated_tree(sample) for position, sample in enumerate(samples)}
    store.evaluations.submit(SPEC, evaluation_id="e")
    store.samples.put_images({"d1": b"\x89PNG"})
    lease = store.leases.acquire("evaluation:e")
    assert lease is not None
    with lease:
        store.evaluations.start("e", lease=lease, total=len(samples))
        store.evaluations.put_batch("e", trees, lease=lease, done=len(samples))
        if finish:
            store.evaluations.finish("e", ROWS, lease=lease)


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with open_store(f"sqlite:///{tmp_path / 'store.db'}") as opened:
        yield opened


@pytest.fixture
def other(tmp_path: Path) -> Any:
    with open_store(f"sqlite:///{tmp_path / 'other.db'}") as opened:
        yield opened


def test_parquet_brings_an_evaluation_to_another_store_as_it_was(
    store: Store, other: Store, tmp_path: Path
) -> None:
    samples = [_sample(0), _sample(1), _sample(2, prefill="Sure")]
    _fill(store, samples)
    files = export_evaluation(store, "e", tmp_path / "out")
    assert [path.name for path in files] == [
        "samples.parquet",
        "verdicts.parquet",
        "images.parquet",
    ]
    taken = import_evaluation(other, tmp_path / "out")
    before = store.evaluations.get("e")
    assert before is not None
    assert (taken.id, taken.state, taken.done, taken.record, taken.rows) == (
        "e",
        "finished",
        3,
        before.record,
        before.rows,
    )
    assert other.evaluations.samples("e") == store.evaluations.samples("e")
    assert other.samples.image("d1") == b"\x89PNG"


def test_parquet_can_be_read_by_others(store: Store, tmp_path: Path) -> None:
    _fill(store, [_sample(0), _sample(1)])
    export_evaluation(store, "e", tmp_path, with_images=False)
    assert not (tmp_path / "images.parquet").exists()
    samples = parquet.read_table(tmp_path / "samples.parquet").to_pydict()
    assert samples["sample_id"] == ["s0", "s1"]
    assert [json.loads(text) for text in samples["target"]] == [{}, {"kind": "cup"}]
    verdicts = parquet.read_table(tmp_path / "verdicts.parquet").to_pydict()
    assert verdicts["position"] == [0, 1, 1]
    assert verdicts["sample_id"] == ["s0", "s1", "s1"]
    assert verdicts["judge"] == ["oracle", "oracle", "guard"]
    assert verdicts["paper_label"] == [None, None, "refuse"]


def test_parquet_imported_twice_is_one_evaluation_and_another_of_its_id_is_refused(
    store: Store, other: Store, tmp_path: Path
) -> None:
    _fill(store, [_sample(1)])
    export_evaluation(store, "e", tmp_path / "out")
    import_evaluation(store, tmp_path / "out")
    assert len(store.evaluations.list()) == 1
    _fill(other, [_sample(1, answer="another")])
    with pytest.raises(IdempotencyConflict, match="is another one"):
        import_evaluation(other, tmp_path / "out")
    assert other.evaluations.samples("e")[0]["answer"] == "another"


def test_parquet_of_what_cannot_be_exported_is_named(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'e' is not in the store"):
        export_evaluation(store, "e", tmp_path)
    _fill(store, [_sample(1)], finish=False)
    with pytest.raises(ConfigError, match="'e' is queued; only finished ones"):
        export_evaluation(store, "e", tmp_path)


def test_parquet_files_of_others_are_refused(other: Store, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"samples\.parquet: cannot be read"):
        import_evaluation(other, tmp_path)
    (tmp_path / "samples.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ConfigError, match="cannot be read as Parquet"):
        import_evaluation(other, tmp_path)
    import pyarrow as pa

    for name in ("samples", "verdicts"):
        parquet.write_table(pa.table({"position": [0]}), tmp_path / f"{name}.parquet")
    with pytest.raises(ConfigError, match="is of format None"):
        import_evaluation(other, tmp_path)
    assert other.evaluations.list() == []
