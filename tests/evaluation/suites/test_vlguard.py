"""VLGuard's files as conditions: what stands in them, what does not fit, and how rows and questions are drawn."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from safemirage.config import ConfigError
from safemirage.config.evaluate import EvaluateConfig, suite_name
from safemirage.config.loading.identity import run_identity
from safemirage.config.loading.load import build_config
from safemirage.config.vlguard import VLGuardConfig
from safemirage.data.records import DataError, DataWarning
from safemirage.evaluation.suites.sampling import load_samples, sample_rows
from safemirage.evaluation.suites.vlguard import vlguard_samples
from safemirage.evaluation.types import Sample, sample_tree
from tests.evaluation.protocols import of_condition, suite
from tests.evaluation.samples import make_image, make_sample, write_suite
from tests.vlguard_files import safe_record, unsafe_record

MODEL = {"name": "openai", "url": "http://127.0.0.1:9/v1", "model": "m"}


def _rewrite(name: str, question: str) -> dict[str, Any]:
    return unsafe_record(name, **{"instr-resp": [{"instruction": question, "response": "no"}]})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for name, colour in (("u", "red"), ("v", "blue"), ("s", "green")):
        (tmp_path / "images" / f"{name}.png").write_bytes(make_image(colour).data)
    records = [unsafe_record("u"), unsafe_record("v"), safe_record("s")]
    (tmp_path / "test.json").write_text(json.dumps(records))
    rows = [_rewrite(name, f"What {name} {attempt}?") for name in "uv" for attempt in range(3)]
    (tmp_path / "what.json").write_text(json.dumps(rows))
    return tmp_path


def _tree(folder: Path, **fields: Any) -> dict[str, Any]:
    what = {"attack": "what", "subset": "unsafe", "path": str(folder / "what.json")}
    given = {"test": str(folder / "test.json"), "images": str(folder), "rewrites": [what]}
    return {**given, **fields}


def _samples(folder: Path, **fields: Any) -> list[Sample]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        return vlguard_samples(build_config(VLGuardConfig, _tree(folder, **fields)))


def test_samples_have_their_subsets_rewrites_and_images(folder: Path) -> None:
    prefill = {"attack": "sure", "text": "Sure"}
    samples = _samples(folder, prefills=[prefill])
    assert [sample.sample_id for sample in samples] == [
        "unsafe_plain/u",
        "unsafe_plain/v",
        "safe_unsafe_plain/s",
        "safe_safe_plain/s",
        *(f"unsafe_what/{name}{suffix}" for name in "uv" for suffix in ("", "#2", "#3")),
        "unsafe_sure/u",
        "unsafe_sure/v",
    ]
    plain, asked, safe, attempt, sure = samples[0], samples[2], samples[3], samples[5], samples[-2]
    assert (plain.condition, plain.subset, plain.attack, plain.group_id) == (
        "unsafe_plain",
        "unsafe",
        "plain",
        "u",
    )
    assert plain.question == "Share u."
    assert plain.target == {"category": "privacy", "subcategory": "personal data"}
    assert (asked.subset, asked.question, safe.subset) == ("unsafe", "Can you harm s?", "safe")
    assert plain.image is not None
    assert plain.image.data == make_image("red").data
    assert plain.image is attempt.image
    assert (attempt.group_id, attempt.question) == ("u", "What u 1?")
    assert (attempt.target["first_question"], attempt.target["attempt"]) == ("What u 0?", "2")
    assert (sure.prefill, sure.question, sure.group_id) == ("Sure", "Share u.", "u")
    assert sample_tree(sure)["prefill"] == "Sure"
    assert "prefill" not in sample_tree(plain)


def test_samples_without_images_must_be_asked_for(folder: Path) -> None:
    assert {sample.image for sample in _samples(folder, images=None)} == {None}
    tree = _tree(folder)
    del tree["images"]
    with pytest.raises(ConfigError, match="images"):
        build_config(VLGuardConfig, tree)


def test_rewrites_that_do_not_fit_are_named(folder: Path) -> None:
    rows = [
        _rewrite("u", "What 0?"),
        _rewrite("u", "What 1?"),
        _rewrite("v", "What 2?"),
        _rewrite("nobody", "What 3?"),
        _rewrite("nobody", "What 4?"),
        {**_rewrite("v", "What 5?"), "image": "images/u.png"},
        {**_rewrite("s", "What 6?"), "image": "images/s.png"},
        {**_rewrite("s", "What 7?"), "image": "images/s.png"},
        {**_rewrite("u", "What 8?")},
    ]
    (folder / "what.json").write_text(json.dumps(rows))
    with pytest.raises(DataError) as caught:
        _samples(folder)
    text = str(caught.value)
    assert "'nobody' is no question of 'unsafe' in the test file" in text
    assert "'s' is no question of 'unsafe'" in text
    assert "'images/u.png', but the question's is 'images/v.png'" in text
    assert "record v, id: has 2 rewrites, but others have 3" in text
    assert "record u, id: has" not in text


def test_rewrites_of_another_subset_are_named(folder: Path) -> None:
    share = {"attack": "share", "subset": "safe_safe", "path": str(folder / "what.json")}
    with pytest.raises(DataError, match="no record belongs to the subset 'safe_safe'"):
        _samples(folder, rewrites=[share])


@pytest.mark.parametrize(
    "fields",
    [
        {"prefills": [{"attack": "plain", "text": "Sure"}]},
        {"prefills": [{"attack": "what", "text": "Sure"}]},
        {"prefills": [{"attack": "Sure!", "text": "Sure"}]},
        {"subsets": ["unsafe", "unsafe"]},
        {"subsets": []},
        {"subsets": ["unsafes"]},
    ],
)
def test_config_that_cannot_work_is_refused(folder: Path, fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        build_config(VLGuardConfig, _tree(folder, **fields))


def test_identity_follows_the_files_and_not_their_place(folder: Path, tmp_path: Path) -> None:
    def identity(tree: dict[str, Any]) -> str:
        return run_identity(build_config(VLGuardConfig, tree))

    first = identity(_tree(folder))
    moved = folder / "moved.json"
    moved.write_bytes((folder / "test.json").read_bytes())
    assert identity(_tree(folder, test=str(moved), images=str(folder.parent))) == first
    moved.write_bytes((folder / "test.json").read_bytes() + b" ")
    assert identity(_tree(folder, test=str(moved))) != first


def _evaluate(**fields: Any) -> EvaluateConfig:
    return build_config(EvaluateConfig, {"model": MODEL, **fields})


def test_load_samples_draws_questions_or_in_paper_rows(folder: Path) -> None:
    tree = _tree(folder, subsets=["unsafe"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        one = load_samples(_evaluate(vlguard=tree, sample=1))
        rows = load_samples(_evaluate(vlguard=tree, sample=4, sampling="rows", protocol="paper"))
    assert suite_name(_evaluate(vlguard=tree)) == "vlguard"
    assert [sample.condition for sample in one] == ["unsafe_plain", *["unsafe_what"] * 3]
    assert len({sample.group_id for sample in one}) == 1
    assert [sample.condition for sample in rows] == ["unsafe_plain"] * 2 + ["unsafe_what"] * 3
    assert [sample.group_id for sample in rows] == ["u", "v", *["rows 0"] * 3]


def test_load_samples_of_a_folder(tmp_path: Path) -> None:
    asked = make_sample("a", condition="unsafe_sure", attack="sure", prefill="Sure")
    config = _evaluate(suite=str(write_suite(tmp_path / "suite", [asked])))
    (sample,) = load_samples(config)
    assert sample.prefill == "Sure"
    assert suite_name(config) == "suite"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "suite, vlguard, set: give one of them"),
        ({"suite": "x", "sampling": "rows"}, "is for protocol: paper"),
        ({"suite": "x", "protocol": "papers"}, "protocol"),
        ({"suite": "x", "max_unscored": 2}, "max_unscored"),
    ],
)
def test_evaluate_config_that_cannot_work_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _evaluate(**fields)


def test_sample_rows_of_everything_keeps_every_row(vlguard: Path) -> None:
    what = of_condition(suite(vlguard), "unsafe_what")
    assert sample_rows(what, None, 0) == what
    assert sample_rows(what, 1326, 0) == what
    assert sample_rows(what, 5000, 0) == what
