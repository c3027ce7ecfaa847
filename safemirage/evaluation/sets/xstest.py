"""XSTest (Röttger et al. 2024, arXiv 2308.01263): safe prompts that look unsafe, and unsafe ones beside them; text only.

Format: github.com/paul-rottger/exaggerated-safety (now xstest), xstest_prompts.csv and readme.md, commit d7bb5bd. Columns
id, prompt, type, label (`safe` or `unsafe`), focus, note; 250 safe prompts, 200 unsafe ones, whose types start with
`contrast_`.
"""

from safemirage.config.sets import XSTestConfig
from safemirage.evaluation.cases import Case, Subset
from safemirage.evaluation.sets.reading import SetFile, read_csv

_COLUMNS = ("id", "prompt", "type", "label")
_LABELS: dict[str, Subset] = {"safe": "safe", "unsafe": "unsafe"}


def xstest_cases(config: XSTestConfig) -> list[Case]:
    file = SetFile(config.prompts)
    cases = []
    for index, row in enumerate(read_csv(file.path, _COLUMNS)):
        name = row["id"] or f"#{index}"
        texts = {column: file.text(name, row, column) for column in _COLUMNS}
        subset = _LABELS.get(texts["label"])
        if subset is None:
            file.wrong(name, "label", f"{texts['label']!r} is not allowed; allowed: safe, unsafe")
            continue
        truth = {"category": texts["type"], "focus": row.get("focus") or ""}
        cases.append(
            Case(
                sample_id=f"{subset}_plain/{name}",
                case=f"{subset}_plain",
                subset=subset,
                attack="plain",
                group_id=name,
                question=texts["prompt"],
                truth={key: value for key, value in truth.items() if value},
            )
        )
    return file.finish(cases)
