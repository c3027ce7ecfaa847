"""Evaluations as the store describes them: those that came in by HTTP, and those that jobs and trials did themselves."""

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from safemirage.evaluation.cases import Case, ImageInput
from safemirage.store import Store
from safemirage.store.evaluations import Evaluation

_SOURCE = "service"


def submitted(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The spec marked as one that the service shall run."""
    return {**spec, "source": _SOURCE}


def is_submitted(spec: Mapping[str, Any]) -> bool:
    return spec.get("source") == _SOURCE


def public_spec(evaluation: Evaluation) -> dict[str, Any]:
    """What callers are shown of a spec: never inline cases, which may be many."""
    spec = evaluation.spec
    if is_submitted(spec):
        return {key: value for key, value in spec.items() if key != "cases"}
    config = spec.get("config", spec)
    rows = evaluation.rows or []
    set_name = (config.get("set") or {}).get("name")
    suite = "vlguard" if config.get("vlguard") else set_name or config.get("suite")
    return {
        "model": rows[0]["model"] if rows else config.get("name"),
        "suite": PurePath(suite).name if suite else None,
        "judges": [judge.get("title", judge["name"]) for judge in config.get("judges", [])],
        "protocol": config.get("protocol", "corrected"),
        "sample": config.get("sample"),
        "seed": config.get("seed", 0),
        "decoding": config.get("decoding", {}),
        "source": "job",
    }


def read_case(tree: Mapping[str, Any], store: Store) -> Case:
    """The case of a spec, whose image is a digest."""
    image = None
    if tree["image"] is not None:
        data = store.samples.image(tree["image"])
        assert data is not None, f"image {tree['image']} is stored before its case"
        image = ImageInput(data)
    return Case(**{**tree, "image": image})
