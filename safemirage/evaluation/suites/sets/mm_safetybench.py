"""MM-SafetyBench (Liu et al. 2024, arXiv 2311.17600): 13 scenarios, three kinds of picture a question, all unsafe.

Format: README.md of the original (github.com/isXinLiu/MM-SafetyBench) and TinyVersion_ID_List.json, both read in the fork
github.com/syk1052/MM-SafetyBench, commit 4f79565. A scenario is processed_questions/<scenario>.json, an object of
question id -> {"Question", "Changed Question", "Rephrased Question", "Rephrased Question(SD)", ...}; its pictures are
imgs/<scenario>/<kind>/<question id>.jpg. Kind SD is asked with "Rephrased Question(SD)", the others with "Rephrased
Question".
"""

from collections.abc import Mapping
from pathlib import Path

from safemirage.config.sets import MMSafetyBenchConfig, MMSafetyBenchKind
from safemirage.data.records import DataError, Problem, read_json
from safemirage.evaluation.suites.sets.file import SetFile, read_json_object, records_in
from safemirage.evaluation.types import Sample

_ASKED: Mapping[MMSafetyBenchKind, str] = {
    "SD": "Rephrased Question(SD)",
    "SD_TYPO": "Rephrased Question",
    "TYPO": "Rephrased Question",
}
_ORIGINAL = "Question"
Tiny = Mapping[str, frozenset[str]]
"""Scenario -> ids of its questions in the tiny version."""


def mm_safetybench_samples(config: MMSafetyBenchConfig) -> list[Sample]:
    """Kind by kind, scenario by scenario. A question's three kinds share its group id."""
    folder = Path(config.questions).expanduser()
    scenarios = {path.stem: path for path in sorted(folder.glob("*.json"))}
    if not scenarios:
        raise DataError(folder, "holds no <scenario>.json")
    tiny = None if config.tiny is None else _read_tiny(Path(config.tiny).expanduser())
    if tiny is not None:
        if absent := sorted(tiny.keys() - scenarios.keys()):
            raise DataError(folder, f"has no file for the tiny version's scenarios {absent}")
        scenarios = {name: path for name, path in scenarios.items() if name in tiny}
    by_scenario = [
        _scenario(name, path, config, None if tiny is None else tiny[name])
        for name, path in scenarios.items()
    ]
    return [
        sample
        for kind in config.kinds
        for samples in by_scenario
        for sample in samples
        if sample.attack == kind.lower()
    ]


def _scenario(
    scenario: str, path: Path, config: MMSafetyBenchConfig, chosen: frozenset[str] | None
) -> list[Sample]:
    file = SetFile(str(path), config.images)
    records = records_in(file, read_json_object(path))
    if chosen is not None:
        for absent in sorted(chosen - records.keys()):
            file.wrong(absent, "(whole record)", "is in the tiny version, but not in this file")
    samples = []
    for kind in config.kinds:
        for name, record in records.items():
            if chosen is not None and name not in chosen:
                continue
            attack = kind.lower()
            samples.append(
                Sample(
                    sample_id=f"unsafe_{attack}/{scenario}/{name}",
                    condition=f"unsafe_{attack}",
                    subset="unsafe",
                    attack=attack,
                    group_id=f"{scenario}/{name}",
                    question=file.text(name, record, _ASKED[kind]),
                    image=file.image(name, f"{scenario}/{kind}/{name}.jpg"),
                    target={"category": scenario, "goal": file.text(name, record, _ORIGINAL)},
                )
            )
    return file.finish(samples)


def _read_tiny(path: Path) -> Tiny:
    """[{"Scenario": "01-Illegal_Activitiy", "Sampled_ID_List": [5, 7, ...]}, ...]"""
    items = read_json(path)
    problems = []
    chosen: dict[str, frozenset[str]] = {}
    for index, item in enumerate(items if isinstance(items, list) else []):
        scenario = item.get("Scenario") if isinstance(item, dict) else None
        ids = item.get("Sampled_ID_List") if isinstance(item, dict) else None
        if not isinstance(scenario, str) or not isinstance(ids, list) or not ids:
            message = "needs a text Scenario and a list Sampled_ID_List"
            problems.append(Problem(f"#{index}", "(whole record)", message))
        else:
            chosen[scenario] = frozenset(str(number) for number in ids)
    if problems:
        raise DataError(path, problems)
    if not chosen:
        raise DataError(path, "holds no list of scenarios")
    return chosen
