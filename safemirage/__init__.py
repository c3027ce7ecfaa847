"""safemirage: find, measure and remove safety mirages in vision-language models.

The functions below are what a script needs; each does what the command of its name does, in this process and with the
same storage (SAFEMIRAGE_STORAGE). Importing this package is fast and loads none of the libraries behind it.

    import safemirage

    safemirage.evaluate("configs:evaluate/url.yaml", "model.url=http://127.0.0.1:8000/v1", "suite=my/suite", "name=mine")
    if not safemirage.gate("mine", "asr<=0.05", "useful_rate>=0.9"):
        raise SystemExit("not safe enough")
"""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safemirage.config.loading.load import ConfigError as ConfigError
    from safemirage.data.audit.audit import Audit
    from safemirage.evaluation.errors import EvaluationError as EvaluationError
    from safemirage.evaluation.metrics.changes import Comparison
    from safemirage.evaluation.metrics.rates import StoredEvaluation
    from safemirage.evaluation.reports.gate import Gate
    from safemirage.evaluation.run.client import EvaluationClient as EvaluationClient
    from safemirage.evaluation.types import Sample
    from safemirage.runs import TrainResult

__all__ = [
    "ConfigError",
    "EvaluationClient",
    "EvaluationError",
    "audit",
    "compare",
    "evaluate",
    "gate",
    "load_results",
    "load_suite",
    "train",
]

_CLASSES = {
    "ConfigError": "safemirage.config.loading.load",
    "EvaluationClient": "safemirage.evaluation.run.client",
    "EvaluationError": "safemirage.evaluation.errors",
}
"""Class -> its module, which is imported when the class is first asked for."""


def __getattr__(name: str) -> Any:
    if name not in _CLASSES:
        raise AttributeError(f"module 'safemirage' has no attribute {name!r}")
    return getattr(import_module(_CLASSES[name]), name)


def audit(
    file: str | Path,
    against: Sequence[str | Path] = (),
    *,
    image_folder: str | Path | None = None,
    skip_bad: int = 0,
) -> "Audit":
    """Which words of a VLGuard or LLaVA file's questions give their safety label away. Needs no model.

    Args:
        against: files on which the lookup that was fitted on `file` is scored too.
        image_folder: root of the image paths; given, every image must lie in it.
        skip_bad: how many unusable records of each file may be left out, with a warning, instead of refused.

    Raises:
        DataError: a file cannot be read, or has records that cannot be used.
    """
    from safemirage.data.audit.audit import audit_files

    return audit_files(file, against, image_folder=image_folder, skip_bad=skip_bad)


def load_suite(folder: str | Path) -> "list[Sample]":
    """The questions of a suite's folder, with their images.

    Raises:
        SuiteError: lists everything that is wrong with it.
    """
    from safemirage.evaluation.suites.folder import load_suite as load

    return load(folder)


def evaluate(config: str | Path, *overrides: str) -> "StoredEvaluation":
    """Asks a model every question of a suite and judges the answers, in this process.

    What the store knows is not asked again: a second call asks no model, and one that was cut off resumes.

    Args:
        config: a run file, such as `configs:evaluate/url.yaml`, which is shipped.
        overrides: `a.b=c` on that file.

    Raises:
        ConfigError: the file cannot be used, or something that it names is missing.
        EvaluationError: the evaluation failed.
    """
    from safemirage.evaluation.run.matrix import evaluate_file
    from safemirage.settings import read_settings

    return evaluate_file(config, overrides, read_settings())


def load_results(evaluation: str) -> "StoredEvaluation":
    """A finished evaluation of the store: its `rows` (rates with n and 95 % intervals) and its `samples`.

    Args:
        evaluation: its id, its name, or the run file that it was made from.

    Raises:
        EvaluationError: there is none, or several have the name.
    """
    return _load([evaluation])[0]


def compare(*evaluations: str) -> "Comparison":
    """What changed from the first evaluation to each of the others, paired by question.

    Args:
        evaluations: two or more, each as in `load_results`.
    """
    from safemirage.evaluation.metrics.changes import compare_evaluations

    return compare_evaluations(_load(evaluations))


def gate(
    evaluation: str, *bars: str, max_unscored: float = 0.05, max_degenerate: float = 0.05
) -> "Gate":
    """Whether an evaluation's rates keep to bars; the result is true where all do, and lists each check.

    A rate passes `asr<=0.05` when the upper end of its 95 % interval does, `useful_rate>=0.9` when the lower end does.

    Args:
        evaluation: as in `load_results`.
        bars: `asr<=0.05` applies to every unsafe condition, `useful_rate>=0.9` to every safe one, `unsafe_what/asr<=0.05` to one.
        max_unscored: the share of a rate's answers that may be without a verdict.
        max_degenerate: the share of degenerate answers that may stand under a rate that shall be low.
    """
    from safemirage.evaluation.reports.gate import check_gate

    found = load_results(evaluation)
    return check_gate(found, bars, max_unscored=max_unscored, max_degenerate=max_degenerate)


def train(config: str | Path, *overrides: str) -> "TrainResult":
    """Trains or unlearns on the Ray cluster of RAY_ADDRESS, or on one of this process's own.

    A finished run is returned, a live one is followed, a failed or interrupted one resumes from its last checkpoint.

    Args:
        config: a run file, such as `configs:train/miniature_npo.yaml`, which is shipped.
        overrides: `a.b=c` on that file.

    Raises:
        ConfigError: the file cannot be used, or something that it names is missing.
    """
    from safemirage.runs import TrainResult, read_record
    from safemirage.settings import read_settings

    # Jobs import this package; only when one is asked for is it loaded, by its name.
    run = import_module("ray_jobs.train").train_file(config, overrides, read_settings())
    return read_record(TrainResult, run.result, of=run.id)


def _load(evaluations: Sequence[str]) -> "list[StoredEvaluation]":
    from safemirage.evaluation.run.archive import load_evaluations
    from safemirage.settings import read_settings
    from safemirage.store import open_store

    settings = read_settings()
    with open_store(settings.store_url) as store:
        return load_evaluations(store, list(evaluations), settings)
