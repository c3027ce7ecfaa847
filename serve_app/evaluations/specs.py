"""Evaluations as the service shows and takes them up: those that came in by HTTP, and those of jobs and trials."""

from collections.abc import Mapping
from typing import Any

from safemirage.config.loading.load import ConfigError, to_tree
from safemirage.evaluation.record import EvaluationRecord, read_evaluation, readable
from safemirage.evaluation.types import ImageInput, Sample
from safemirage.store import Store
from safemirage.store.evaluations import Evaluation


def is_submitted(evaluation: Evaluation) -> bool:
    """Whether it came in by HTTP, for the service to run."""
    record = readable(evaluation)
    return record is not None and record.source == "service"


def public_spec(evaluation: Evaluation) -> dict[str, Any]:
    """What callers are shown of what was asked: never inline samples, which may be many. A record of another version
    has its `problem`, and spoils no listing."""
    problem = None
    try:
        record = read_evaluation(evaluation)
    except ConfigError as error:
        record = EvaluationRecord(name=evaluation.id)
        problem = str(error)
    rows = evaluation.rows or []
    return {
        "model": rows[0]["model"] if rows else record.name,
        "generator": record.generator,
        "suite": record.suite,
        "suite_digest": record.suite_digest,
        "judges": [judge.name for judge in record.judges],
        "protocol": record.protocol,
        "sample": record.sample,
        "seed": record.seed,
        "decoding": to_tree(record.decoding),
        "source": record.source,
        "problem": problem,
    }


def read_case(tree: Mapping[str, Any], store: Store) -> Sample:
    """The sample of a record, whose image is a digest."""
    image = None
    if tree["image"] is not None:
        data = store.samples.image(tree["image"])
        assert data is not None, f"image {tree['image']} is stored before its sample"
        image = ImageInput(data)
    return Sample(**{**tree, "image": image})
