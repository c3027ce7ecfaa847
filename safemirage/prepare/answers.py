"""The table of harmful answers: JSON `{sample id or image: answer, or null where none is usable}`.

A key that stands for two records is refused, so that no answer is given to a question that it does not answer.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safemirage.data.records import DataError, Problem, read_json
from safemirage.data.vlguard import VLGuardRecord


def read_answers(path: Path | str) -> dict[str, str | None]:
    """The table of a file.

    Raises:
        DataError: the file cannot be read or is no such table, a key stands twice, an answer is blank.
    """
    path = Path(path)
    problems: list[Problem] = []

    def collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        count = Counter(key for key, _ in pairs)
        problems.extend(
            Problem(key, "(key)", f"stands {times} times")
            for key, times in count.items()
            if times > 1
        )
        return dict(pairs)

    table = read_json(path, pairs_hook=collect)
    if not isinstance(table, dict):
        raise DataError(
            path, f"holds {type(table).__name__}, but a table is {{id or image: answer}}"
        )
    problems += [
        Problem(key, "(answer)", f"{answer!r} is neither a text nor null")
        for key, answer in table.items()
        if answer is not None and not (isinstance(answer, str) and answer.strip())
    ]
    if problems:
        raise DataError(path, problems)
    return table


def assign_answers(
    records: Sequence[VLGuardRecord], table: Mapping[str, str | None], *, source: Path | str
) -> dict[str, str]:
    """The answer to each record's unsafe question, by the record's unique id. Nulls and unnamed records are left out.

    Raises:
        DataError: a key names no record, or several of which the table names none by its own id, or two keys name
            the same record.
    """
    by_id = {record.id: record for record in records}
    by_name: dict[str, list[VLGuardRecord]] = {}
    for record in records:
        for name in {record.source_id, record.image}:
            by_name.setdefault(name, []).append(record)
    problems: list[Problem] = []
    owner: dict[str, str] = {}
    for key in table:
        named = by_name.get(key, [by_id[key]] if key in by_id else [])
        distinct = [record.id for record in named]
        if (
            len(distinct) > 1
            and key in by_id
            and any(other in table for other in distinct if other != key)
        ):
            distinct = [key]
        if len(distinct) != 1:
            problems.append(Problem(key, "(key)", _no_single_record(distinct)))
        elif distinct[0] in owner:
            problems.append(
                Problem(key, "(key)", f"answers the same record as {owner[distinct[0]]!r}")
            )
        else:
            owner[distinct[0]] = key
    if problems:
        raise DataError(Path(source), problems)
    return {item: answer for item, key in owner.items() if (answer := table[key]) is not None}


def _no_single_record(ids: Sequence[str]) -> str:
    if not ids:
        return "is neither an id nor an image of the records"
    return f"stands for {len(ids)} records; name each by its own id: {', '.join(ids)}"
