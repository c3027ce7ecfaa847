"""Runs lmms-eval on a model in a process of its own, and writes beside its results which weights they are of.

lmms-eval was read at version 0.7.3 (github.com/EvolvingLMMs-Lab/lmms-eval, lmms_eval/__main__.py, lmms_eval/models/simple and
chat, lmms_eval/loggers/evaluation_tracker.py): it writes <out>/<model>/<date>_results.json; it ends with exit code 0 also where
an evaluation failed; and where a model fails at a question, it goes on with an empty answer. The last two are errors here.
"""

import codecs
import json
import os
import re
import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safemirage.config.loading.identity import MERGED_NAME, file_digest
from safemirage.config.loading.load import ConfigError, build_config, to_tree
from safemirage.config.types import Strict
from safemirage.data.records import DataError, read_json
from safemirage.evaluation.errors import EvaluationError
from safemirage.files import write_text
from safemirage.models.families import FAMILIES, UnknownFamilyError
from safemirage.models.manifest import (
    MANIFEST_NAME,
    is_adapter,
    read_manifest,
    verify_export,
    weights_digest,
)

RESULTS = "_results.json"
_RECORD = "_weights.json"
_FAILED = re.compile(r" in generating(\x1b\[\d*m)*\s*$")
"""The end of what lmms-eval prints where a model failed at a question: `Error <why> in generating`."""
_LINE_ENDS = re.compile(r"[\r\n]")
_CHUNK = 1 << 16
_MEANS_MORE = frozenset(",\"'{}[]")
"""What lmms-eval takes for more than a character of a path."""


@dataclass(frozen=True, kw_only=True)
class UtilityRecord(Strict):
    """What stands beside a result file of lmms-eval: which weights were measured, and how."""

    model: str
    """As the user named it: an export's folder, or a hub id."""
    weights: tuple[str, ...]
    """Digests by which evaluations know these weights; an adapter has its own and that of the merged model."""
    command: tuple[str, ...]
    results: str
    """SHA-256 of the result file."""


def lmms_eval_command(
    folder: Path, tasks: str, out: Path, *, python: str, options: Sequence[str] = ()
) -> tuple[str, ...]:
    """The command that measures a model: an export, or a folder in the hub's layout. An adapter is asked merged.

    Args:
        options: what lmms-eval is told beside; its `--model_args` are added to the model's folder.

    Raises:
        UnknownFamilyError: lmms-eval's loader for the model is not known here.
        ConfigError: the folder is no model, or its path cannot be told to lmms-eval.
    """
    family = _family(folder)
    if family not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise UnknownFamilyError(
            f"{folder}: model_type {family!r} is no known family; known: {known}"
        )
    measured = measured_folder(folder)
    if odd := sorted(_MEANS_MORE & set(str(measured))):
        raise ConfigError(
            f"{measured}: lmms-eval cannot be told a path with {' '.join(odd)} in it; move the model, or link to it"
        )
    arguments, others = _model_arguments(options)
    return (
        *(python, "-m", "lmms_eval"),
        *("--model", FAMILIES[family].lmms_eval),
        *("--model_args", ",".join([f"pretrained={measured}", *arguments])),
        *("--tasks", tasks),
        *("--output_path", str(out)),
        *others,
    )


def measured_folder(folder: Path) -> Path:
    """The folder that lmms-eval loads: of an adapter the merged model inside it, which may not be there yet."""
    return folder / MERGED_NAME if is_adapter(folder) else folder


def weights_of_folder(folder: Path) -> tuple[str, ...]:
    """The digests by which evaluations know a model: those of the export and, for an adapter, of the merged model.

    Raises:
        ExportError: an export is not what its manifest says, or the folder has no weights.
    """
    folders = dict.fromkeys([folder, measured_folder(folder)])
    return tuple(
        verify_export(one).weights_digest
        if (one / MANIFEST_NAME).is_file()
        else weights_digest(one)
        for one in folders
    )


def require_lmms_eval(command: Sequence[str]) -> None:
    """Raises ConfigError where the command's Python cannot import lmms-eval."""
    find = "import importlib.util, sys; sys.exit(importlib.util.find_spec('lmms_eval') is None)"
    try:
        is_missing = subprocess.run([command[0], "-c", find], check=False).returncode != 0
    except OSError as error:
        raise ConfigError(f"--python: {command[0]} cannot be run: {error}") from error
    if is_missing:
        raise ConfigError(
            f"lmms-eval is not installed for {command[0]}. It wants an environment of its own, because it needs other "
            "versions of this one's packages:\n"
            "  python3 -m venv lmms-eval\n"
            "  lmms-eval/bin/pip install 'lmms_eval[video-legacy]'\n"
            "Then add --python lmms-eval/bin/python. What would have run:\n"
            f"  {shlex.join(command)}"
        )


def run_lmms_eval(command: Sequence[str], out: Path, on_output: Callable[[str], object]) -> Path:
    """Runs the command and returns its result file; `on_output` gets what it prints as it comes.

    Raises:
        EvaluationError: lmms-eval failed, the model failed at a question, or there is no result file.
    """
    before = set(out.rglob(f"*{RESULTS}"))
    if failed := _run(command, on_output):
        raise EvaluationError(
            f"lmms-eval: the model failed at {failed} questions (`Error ... in generating` above). It counts them as empty "
            "answers, so its numbers are not used"
        )
    new = sorted(set(out.rglob(f"*{RESULTS}")) - before)
    if len(new) != 1:
        raise EvaluationError(
            f"lmms-eval wrote {len(new)} result files below {out}, not one; its output above says why"
        )
    return new[0]


def write_record(
    results: Path, *, model: str, weights: Sequence[str], command: Sequence[str]
) -> None:
    """Writes beside a result file which weights it is of."""
    record = UtilityRecord(
        model=model, weights=tuple(weights), command=tuple(command), results=file_digest(results)
    )
    write_text(_record_path(results), json.dumps(to_tree(record), indent=1))


def read_record(results: Path) -> UtilityRecord | None:
    """The record beside a result file; None where there is none.

    Raises:
        DataError: the record is of another file.
        ConfigError: it cannot be read.
    """
    path = _record_path(results)
    if not path.is_file():
        return None
    record = build_config(UtilityRecord, read_json(path), source=str(path))
    if record.results != file_digest(results):
        raise DataError(results, f"is not the file that {path.name} beside it was written for")
    return record


def _family(folder: Path) -> str:
    if is_adapter(folder):
        return read_manifest(folder).family
    config = folder / "config.json"
    if not config.is_file():
        raise ConfigError(
            f"{folder}: no config.json, so this is neither an export nor a model in the hub's layout"
        )
    tree = read_json(config)
    return str(tree.get("model_type")) if isinstance(tree, dict) else ""


def _model_arguments(options: Sequence[str]) -> tuple[list[str], list[str]]:
    """The values of `--model_args`, and the other options."""
    found, others = [], list(options)
    while "--model_args" in others[:-1]:
        place = others.index("--model_args")
        found.append(others[place + 1])
        del others[place : place + 2]
    return found, others


def _run(command: Sequence[str], on_output: Callable[[str], object]) -> int:
    """Passes the output on; returns how many questions the model failed at."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    failed, line = 0, ""
    with subprocess.Popen(
        command, env=_environment(os.environ), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        try:
            while chunk := os.read(process.stdout.fileno(), _CHUNK):
                text = decoder.decode(chunk)
                on_output(text)
                *lines, line = _LINE_ENDS.split(line + text)
                failed += sum(_FAILED.search(one) is not None for one in lines)
        except BaseException:
            process.terminate()
            raise
    if process.returncode != 0:
        raise EvaluationError(
            f"lmms-eval ended with exit code {process.returncode}; its output above says why"
        )
    return failed


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    """lmms-eval logs the value of HF_TOKEN; under its older name huggingface_hub finds the token as well."""
    environment = dict(given)
    token = environment.pop("HF_TOKEN", None)
    return {"HUGGING_FACE_HUB_TOKEN": token, **environment} if token else environment


def _record_path(results: Path) -> Path:
    return results.with_name(results.name.removesuffix(RESULTS) + _RECORD)
