"""XSTest (Röttger et al. 2024, arXiv 2308.01263): safe prompts that look unsafe, and unsafe ones beside them; text only.

Format: github.com/paul-rottger/exaggerated-safety (now xstest), xstest_prompts.csv and readme.md, commit d7bb5bd: columns
id, prompt, type, label (`safe` or `unsafe`), focus, note. Version 2, xstest_v2_prompts.csv, commit a3bb396, has id_v1 and
id_v2 in the place of id, and no label. In both there are 250 safe prompts and 200 unsafe ones, whose types start with
`contrast_`.
"""

from collections.abc import Mapping

from safemirage.config.sets import XSTestConfig
from safemirage.evaluation.suites.sets.file import SetFile, read_csv
from safemirage.evaluation.types import Sample, Subset

_COLUMNS = ("prompt", "type")
_LABELS: dict[str, Subset] = {"safe": "safe", "unsafe": "unsafe"}
_UNSAFE_TYPES = "contrast_"


def xstest_samples(config: XSTestConfig) -> list[Sample]:
    file = SetFile(config.prompts)
    samples = []
    for index, row in enumerate(read_csv(file.path, _COLUMNS)):
        name = row.get("id") or row.get("id_v2") or f"#{index}"
        texts = {column: file.text(name, row, column) for column in _COLUMNS}
        subset = _subset(file, name, row)
        if subset is None:
            continue
        target = {"category": texts["type"], "focus": row.get("focus") or ""}
        samples.append(
            Sample(
                sample_id=f"{subset}_plain/{name}",
                condition=f"{subset}_plain",
                subset=subset,
                attack="plain",
                group_id=name,
                question=texts["prompt"],
                target={key: value for key, value in target.items() if value},
            )
        )
    return file.finish(samples)


def _subset(file: SetFile, name: str, row: Mapping[str, str | None]) -> Subset | None:
    """The label; in a file without labels what the type says. None, and a problem of the file, for any other label."""
    if "label" not in row:
        return "unsafe" if (row["type"] or "").startswith(_UNSAFE_TYPES) else "safe"
    subset = _LABELS.get(row["label"] or "")
    if subset is None:
        file.wrong(name, "label", f"{row['label']!r} is not allowed; allowed: safe, unsafe")
    return subset
