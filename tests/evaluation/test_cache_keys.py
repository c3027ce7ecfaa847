"""What a stored answer belongs to, with real models: its weights, its preprocessing, its service. Names count for nothing."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from safemirage.config.evaluate import EvaluateConfig
from safemirage.config.loading.load import build_config
from safemirage.evaluation.generators import GeneratorUnavailable
from safemirage.evaluation.generators.asking import ModelCalls
from safemirage.evaluation.run.process import run_evaluation
from safemirage.store import Store, open_store
from safemirage.store.evaluations import Evaluation
from tests.evaluation.samples import sample_record, write_suite
from tests.evaluation.service import running_service
from tests.tiny import make_tiny_llava


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(f"sqlite:///{tmp_path / 'store.db'}") as opened:
        yield opened


def _run(
    store: Store, folder: Path, model: dict[str, Any], **fields: Any
) -> tuple[Evaluation, ModelCalls]:
    suite = write_suite(folder / "suite", [sample_record(name) for name in "abcd"])
    tree = {"name": "t", "model": model, "suite": str(suite), **fields}
    calls = ModelCalls()
    config = build_config(EvaluateConfig, tree)
    return asyncio.run(run_evaluation(config, store=store, calls=calls)), calls


def _answers(store: Store, evaluation: Evaluation) -> list[str]:
    return [sample["answer"] for sample in store.evaluations.samples(evaluation.id)]


@pytest.mark.model
def test_retraining_into_the_same_folder_brings_no_stale_answer(
    store: Store, tmp_path: Path
) -> None:
    model = {"name": "transformers", "path": str(make_tiny_llava(tmp_path / "model", seed=0))}
    fields = {"decoding": {"max_new_tokens": 8}}
    first, asked = _run(store, tmp_path, model, **fields)
    assert asked.answers == 4
    make_tiny_llava(tmp_path / "model", seed=1)
    second, asked = _run(store, tmp_path, model, **fields)
    assert asked.answers == 4
    assert second.id != first.id
    assert _answers(store, second) != _answers(store, first)
    make_tiny_llava(tmp_path / "elsewhere", seed=0)
    moved, asked = _run(store, tmp_path, {**model, "path": str(tmp_path / "elsewhere")}, **fields)
    assert asked.answers == 0, "the same weights in another folder are the same model"
    assert moved == first


def test_two_image_preprocessings_never_serve_each_other(store: Store, tmp_path: Path) -> None:
    folder = make_tiny_llava(tmp_path / "model")
    model = {"name": "transformers", "path": str(folder)}
    fields = {"decoding": {"max_new_tokens": 8}}
    padded, asked = _run(store, tmp_path, model, **fields)
    assert asked.answers == 4
    (path,) = [
        path for path in folder.glob("*processor_config.json") if "image_mean" in path.read_text()
    ]
    settings = json.loads(path.read_text())
    images = settings.get("image_processor", settings)
    images["image_mean"] = [0.1, 0.2, 0.3]
    path.write_text(json.dumps(settings))
    cropped, asked = _run(store, tmp_path, model, **fields)
    assert asked.answers == 4
    assert cropped.id != padded.id
    first, second = (one.record.generator for one in (cropped, padded))
    assert first["weights"] == second["weights"]
    assert first["processor"] != second["processor"]


def test_a_url_without_a_revision_is_reused_within_one_evaluation_only(
    store: Store, tmp_path: Path
) -> None:
    with running_service({}) as service:
        model = {"name": "openai", "url": service.url, "model": "m", "attempts": 1}

        def give_out() -> None:
            if len(service.asked) == 3:
                service.fail = True

        service.on_question = give_out
        with pytest.raises(GeneratorUnavailable):
            _run(store, tmp_path, model, batch_size=2)
        service.fail, service.on_question = False, lambda: None
        resumed, asked = _run(store, tmp_path, model, batch_size=2)
        assert (resumed.state, asked.answers) == ("finished", 2), "its own first batch is kept"
        again, asked = _run(store, tmp_path, model, batch_size=2)
        assert asked.answers == 4, "who knows what the URL serves by now"
        assert again.id != resumed.id
        named, asked = _run(store, tmp_path, {**model, "revision": "1"})
        assert asked.answers == 4, "answers of nobody knows what are not those of revision 1"
        same, asked = _run(store, tmp_path, {**model, "revision": "1"}, batch_size=2)
        assert asked.answers == 0
        assert same.id != named.id
        _, asked = _run(store, tmp_path, {**model, "revision": "2"})
        assert asked.answers == 4
