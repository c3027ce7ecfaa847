"""Small files in the public formats of the data sets, with harmless text."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safemirage.config.loading.load import build_config
from safemirage.config.sets import SetConfig
from safemirage.config.types import Strict
from safemirage.evaluation.suites.sets import set_samples
from safemirage.evaluation.types import Sample
from tests.evaluation.samples import make_image


@dataclass(frozen=True, kw_only=True)
class _Holder(Strict):
    set: SetConfig


def samples_of(tree: Mapping[str, Any]) -> list[Sample]:
    """The conditions of a `set:` as it stands in an evaluate file."""
    config: SetConfig = build_config(_Holder, {"set": dict(tree)}).set
    return set_samples(config)


def put_image(path: Path, colour: str = "red") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(make_image(colour).data)


def put_csv(path: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def put_json(path: Path, tree: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(tree), encoding="utf-8")
    return path
