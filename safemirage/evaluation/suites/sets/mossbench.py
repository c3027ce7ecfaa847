"""MOSSBench (Li et al. 2024, arXiv 2406.17806): 300 harmless questions about pictures that models refuse, of three types.

Format: github.com/xirui-li/MOSSBench, README.md ("Data Format") and data/images_information/information.json, commit
8d68b06: an object of id -> {"image": "images/1.png", "question", "metadata": {"over": "type 1", ...}, ...}. Types 1, 2
and 3 are Exaggerated Risk, Negated Harm and Counterintuitive Interpretation, the README's order.
"""

from collections.abc import Mapping

from safemirage.config.sets import MOSSBenchConfig
from safemirage.evaluation.suites.sets.file import SetFile, read_json_object, records_in
from safemirage.evaluation.types import Sample

_TYPES: Mapping[str, str] = {
    "type 1": "exaggerated_risk",
    "type 2": "negated_harm",
    "type 3": "counterintuitive",
}


def mossbench_samples(config: MOSSBenchConfig) -> list[Sample]:
    """A condition a type, as the original's table has a column a type."""
    file = SetFile(config.information, config.images)
    samples = []
    for name, record in records_in(file, read_json_object(file.path)).items():
        metadata = record.get("metadata")
        over = metadata.get("over") if isinstance(metadata, dict) else None
        kind = _TYPES.get(over) if isinstance(over, str) else None
        if kind is None:
            file.wrong(name, "metadata.over", f"{over!r} is unknown; allowed: {', '.join(_TYPES)}")
            continue
        samples.append(
            Sample(
                sample_id=f"safe_{kind}/{name}",
                condition=f"safe_{kind}",
                subset="safe",
                attack="plain",
                group_id=name,
                question=file.text(name, record, "question"),
                image=file.image(name, file.text(name, record, "image")),
                target={"category": kind},
            )
        )
    return file.finish(samples)
