"""SPA-VL (Zhang et al. 2025, arXiv 2406.12030): its two test splits, 265 questions for harm and 265 for help.

Format: the data set's card, huggingface.co/datasets/sqrti/SPA-VL, README.md at revision fdb823a (configuration `test`:
splits `harm` and `help`, columns image, question, class1, class2, class3), and github.com/EchoseChen/SPA-VL-RLHF,
README.md, commit cade637. A Parquet file a split; an image is the struct {bytes, path} in which the hub keeps images.
"""

from typing import Any

from safemirage.config.sets import SPAVLConfig
from safemirage.data.records import DataError
from safemirage.evaluation.suites.sets.file import SetFile
from safemirage.evaluation.types import Sample, Subset

_COLUMNS = ("image", "question", "class1", "class2", "class3")


def spa_vl_samples(config: SPAVLConfig) -> list[Sample]:
    """`harm` as unsafe questions, `help` as safe ones: the set's own division, which nobody here has checked."""
    samples = []
    if config.harm is not None:
        samples += _split(config.harm, "unsafe")
    if config.help is not None:
        samples += _split(config.help, "safe")
    return samples


def _split(path: str, subset: Subset) -> list[Sample]:
    file = SetFile(path)
    samples = []
    for index, row in enumerate(_rows(file)):
        name = f"#{index}"
        image = row["image"]
        data = image.get("bytes") if isinstance(image, dict) else image
        classes = {column: file.text(name, row, column) for column in _COLUMNS[2:]}
        samples.append(
            Sample(
                sample_id=f"{subset}_plain/{index}",
                condition=f"{subset}_plain",
                subset=subset,
                attack="plain",
                group_id=f"{subset} {index}",
                question=file.text(name, row, "question"),
                image=file.embedded_image(name, "image", data),
                target={"category": classes["class1"], **classes},
            )
        )
    return file.finish(samples)


def _rows(file: SetFile) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(file.path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(file.path, f"is not a Parquet file that can be read: {error}") from error
    if missing := [column for column in _COLUMNS if column not in table.column_names]:
        raise DataError(file.path, f"has no column {missing}; its columns are {table.column_names}")
    rows: list[dict[str, Any]] = table.select(list(_COLUMNS)).to_pylist()
    return rows
