"""The splits of a search share no picture: a suite that does is refused before anything is trained."""

import json
from pathlib import Path

import pytest

from ray_jobs.tune.splits import check_disjoint
from safemirage.config.data import DataConfig
from safemirage.config.loading.load import ConfigError
from safemirage.evaluation.types import ImageInput, Sample
from tests.tiny import tiny_image
from tests.tiny_run import make_tiny_run


def samples(colour: str) -> list[Sample]:
    image = ImageInput(tiny_image(colour))
    question = Sample(
        sample_id=colour, condition="safe_plain", subset="safe", attack="plain", group_id=colour,
        question="What is it?", image=image,
    )  # fmt: skip
    return [question]


def test_suites_that_share_a_picture_are_refused_with_both_names(tmp_path: Path) -> None:
    data = DataConfig(**make_tiny_run(tmp_path / "run")["data"])
    check_disjoint({"selection.suite": samples("white"), "test": samples("black")}, data)
    with pytest.raises(ConfigError) as caught:
        check_disjoint({"selection.suite": samples("green"), "test": samples("white")}, data)
    named = [line.partition(";")[0] for line in str(caught.value).splitlines()]
    assert named == [
        f"selection.suite: 1 of its pictures stand in data.{name} too"
        for name in ("retain", "forget")
    ]
    with pytest.raises(ConfigError, match=r"selection.suite: 1 of its pictures stand in test too"):
        check_disjoint({"selection.suite": samples("white"), "test": samples("white")}, data)


def test_question_without_a_picture_counts_as_its_text(tmp_path: Path) -> None:
    file = tmp_path / "retain.json"
    turns = [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "A cup."}]
    file.write_text(json.dumps([{"id": "a", "conversations": turns}]))
    suite = [Sample(sample_id="a", condition="safe_plain", subset="safe", attack="plain", group_id="a", question="What is it?")]  # fmt: skip
    with pytest.raises(ConfigError, match=r"selection.suite: 1 .* data.retain"):
        check_disjoint({"selection.suite": suite}, DataConfig(retain=str(file)))
