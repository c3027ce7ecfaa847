"""What is missing is said all at once, by its key, before anything is read or loaded: for each command that asks models."""

import importlib.util
import json
import shutil
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
import ray

import configs
from safemirage.config.evaluate import EvaluateConfig
from safemirage.config.generators import OpenAIConfig
from safemirage.config.loading.load import build_config, load_config
from safemirage.evaluation.generators.openai import missing_service
from safemirage.evaluation.run.preflight import PreflightError, missing_of, require
from safemirage.models import presence
from safemirage.models.conversion import convert
from safemirage.models.presence import missing_device, missing_packages, missing_weights
from tests.cli.calling import run
from tests.evaluation.samples import sample_record, write_suite
from tests.evaluation.service import running_service
from tests.models.original_checkpoint import OriginalLlava, save_full, save_lora
from tests.tiny import make_tiny_llava
from tests.vlguard_files import unsafe_record

CONFIGS = Path(configs.__file__).parent
GPU = ["model.device", "model.path"]
VLGUARD = ["vlguard.test", "vlguard.images", "vlguard.rewrites.0.path", "vlguard.rewrites.1.path"]
JUDGES = "judges.0.model.url, judges.1.model.url"
EVALUATE: dict[str, list[str]] = {
    "figstep": [*GPU, "set.questions", "set.images", "judges.0.model.url"],
    "mm_safetybench": [*GPU, "set.questions", "set.images", "set.tiny", "judges.0.model.url"],
    "mossbench": [*GPU, "set.information", "set.images"],
    "spa_vl": [*GPU, "set.harm", "set.help", JUDGES],
    "transformers": ["suite", "model.path"],
    "url": ["suite", "model.url", "judges.0.model.url"],
    "vlguard": [*GPU, *VLGUARD, JUDGES],
    "vlguard_paper": [*GPU, *VLGUARD, "judges.0.model.url"],
    "vllm_gpu": ["suite", "model.path", "judges.0.model.path"],
    "xstest": [*GPU, "set.prompts"],
}
"""What this machine lacks of each file, with no data, no weights, no CUDA and no service."""
PROBED = ["evaluate.model.path", "evaluate.suite"]
OTHERS: dict[str, tuple[list[Any], list[str]]] = {
    "attack": (
        ["attack", CONFIGS / "attack/vlguard_model.yaml", "--out", "out"],
        ["vlguard.test", "vlguard.images", "source.model.url"],
    ),
    "attack-search": (
        ["attack-search", CONFIGS / "attack_search/vlguard.yaml", "--out", "out"],
        ["train", *GPU, "vlguard.test", "vlguard.images"],
    ),
    "image-controls": (
        ["image-controls", CONFIGS / "image_controls/vlguard.yaml", "--out", "out"],
        ["vlguard.test", "vlguard.images"],
    ),
    "prepare answers": (
        ["prepare", "answers", CONFIGS / "prepare/answers.yaml", "--out", "out.json"],
        ["train", "image_folder", "candidates.llava_13b_lora.url", "selector.url"],
    ),
    "probe relearn": (
        ["probe", "relearn", CONFIGS / "probe/relearn.yaml"],
        [*PROBED, "data.forget", "data.retain", "data.image_folder"],
    ),
    "probe adapter": (["probe", "adapter", CONFIGS / "probe/adapter.yaml"], PROBED),
    "probe quantise": (["probe", "quantise", CONFIGS / "probe/quantise.yaml"], PROBED),
    "judge-check": (["judge-check", "--config", CONFIGS / "evaluate/vlguard.yaml"], [JUDGES]),
    "rescore": (["rescore", "evaluation", "--judge", "judge.yaml"], ["judges.0.model.url"]),
}


@pytest.fixture(autouse=True)
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is there: no data, no weights, no hub, no CUDA, no cluster."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAFEMIRAGE_STORAGE", str(tmp_path / "storage"))
    monkeypatch.delenv("SAFEMIRAGE_STORE_URL", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(presence, "cuda_devices", lambda: 0)


def keys_of(text: str) -> list[str]:
    return [line.partition(": ")[0] for line in text.removeprefix("error: ").splitlines()]


def test_every_evaluate_file_is_known_here() -> None:
    assert {path.stem for path in (CONFIGS / "evaluate").glob("*.yaml")} == EVALUATE.keys()


@pytest.mark.parametrize("name", EVALUATE)
def test_evaluate_file_on_a_bare_machine_lists_what_is_missing(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = CONFIGS / "evaluate" / f"{name}.yaml"
    if name == "vllm_gpu" and importlib.util.find_spec("vllm") is None:
        pytest.skip("vllm is not installed")
    assert run("evaluate", path) == 2
    said = capsys.readouterr().err
    assert sorted(keys_of(said)) == sorted(EVALUATE[name])
    assert run("evaluate", path, "--ray") == 2
    assert not ray.is_initialized()
    assert capsys.readouterr().err.replace("the cluster", "this machine") == said


@pytest.mark.parametrize("name", OTHERS)
def test_other_commands_that_ask_models_list_what_is_missing(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "judge.yaml").write_text(
        "{name: model, model: {name: openai, url: 'http://127.0.0.1:9/v1', model: m}}"
    )
    arguments, expected = OTHERS[name]
    assert run(*arguments) == 2
    found = keys_of(capsys.readouterr().err)
    assert set(expected) <= set(found)
    assert not (tmp_path / "storage" / "store.db").exists()


def test_evaluation_with_everything_there_lacks_nothing(tmp_path: Path) -> None:
    tree: dict[str, Any] = {
        "model": {"name": "transformers", "path": str(make_tiny_llava(tmp_path / "model"))},
        "suite": str(write_suite(tmp_path / "suite", [sample_record("a")])),
    }
    with running_service({}) as service:
        judge = {"name": "model", "model": {"name": "openai", "url": service.url, "model": "m"}}
        config = build_config(EvaluateConfig, {**tree, "judges": [judge]})
        assert missing_of(config) == []
        require(config)


def test_images_of_vlguard_are_looked_for_before_any_is_read(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    records = [unsafe_record("a", image="a.png"), unsafe_record("b", image="b.png")]
    (tmp_path / "test.json").write_text(json.dumps(records))
    (tmp_path / "images" / "a.png").write_bytes(b"never read")
    config = load_config(
        EvaluateConfig,
        CONFIGS / "evaluate" / "vlguard_paper.yaml",
        [
            "model.device=cpu",
            f"model.path={make_tiny_llava(tmp_path / 'model')}",
            "vlguard={test: test.json, images: images, subsets: [unsafe]}",
            "judges=[{name: keywords}]",
        ],
    )
    with pytest.raises(
        PreflightError, match=r"vlguard\.test: test\.json: 1 problem\(s\)\n.*'b\.png' is not a file"
    ):
        require(config)


def test_relevance_judge_s_files_are_looked_for(tmp_path: Path) -> None:
    config = load_config(
        EvaluateConfig,
        CONFIGS / "evaluate" / "vlguard_paper.yaml",
        ["judges.0.normal_prompt=none.txt"],
    )
    found = keys_of("\n".join(missing_of(config.judges, key="judges")))
    assert found == ["judges.0.normal_prompt", "judges.0.model.url"]


Answer = Callable[[], httpx2.Response]


def unreachable() -> httpx2.Response:
    raise httpx2.ConnectTimeout("timed out")


@pytest.mark.parametrize(
    ("answer", "field", "message"),
    [
        (lambda: httpx2.Response(200, json={"data": [{"id": "m"}]}), None, ""),
        (lambda: httpx2.Response(200, json={"data": []}), None, ""),
        (lambda: httpx2.Response(200, text="hello"), None, ""),
        (lambda: httpx2.Response(404), None, ""),
        (
            lambda: httpx2.Response(200, json={"data": [{"id": str(i)} for i in range(9)]}),
            "model",
            "'m' is not served at 'http://s/v1', which has '0', '1', '2', '3', '4', '5', '6', '7', ...;",
        ),
        (
            lambda: httpx2.Response(401, json={"error": {"message": "no"}}),
            "api_key_env",
            "refuses access (401: no); put its token into the variable OPENAI_API_KEY",
        ),
        (lambda: httpx2.Response(503, text="loading"), "url", "answers 503: loading; wait"),
        (
            unreachable,
            "url",
            "'http://s/v1' cannot be reached (timed out); start the service there",
        ),
    ],
)
def test_service_that_cannot_be_asked_is_named_by_the_field_at_fault(
    answer: Answer, field: str | None, message: str
) -> None:
    found = missing_service(
        OpenAIConfig(url="http://s/v1", model="m"),
        transport=httpx2.MockTransport(lambda _: answer()),
    )
    assert (found.field if found else None) == field
    assert found is None or message in found.text


@pytest.mark.parametrize(
    ("device", "gpus", "message"),
    [
        ("cpu", None, None),
        ("cuda", 1, None),
        ("cuda:1", 2, None),
        ("cuda", None, "this machine has no CUDA device;"),
        ("cuda:2", 2, "the cluster has 2 CUDA devices;"),
        ("gpu", None, "'gpu' is no device; allowed: cpu, cuda, cuda:<index>"),
    ],
)
def test_device_that_is_not_there_is_named(
    device: str, gpus: int | None, message: str | None
) -> None:
    found = missing_device(device, gpus=gpus)
    assert found is None if message is None else message in str(found)


def test_engine_that_is_not_installed_names_its_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert "torch and transformers are not installed; pip install 'safemirage[train]'" in str(
        missing_packages("transformers")
    )
    assert "safemirage[vllm]" in str(missing_packages("vllm"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    assert missing_packages("transformers") is None
    monkeypatch.setattr(presence, "installed_version", lambda _: "0.32")
    assert "in its build for CUDA, and this machine has none" in str(missing_packages("vllm"))


def test_model_that_the_hub_does_not_have_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(httpx, "head", lambda *_, **__: httpx.Response(404))
    found = str(missing_weights("nobody/nothing"))
    assert "has no model 'nobody/nothing' at 'main'" in found
    monkeypatch.setattr(httpx, "head", lambda *_, **__: httpx.Response(200))
    assert missing_weights("somebody/something") is None


def test_hub_whose_name_is_looked_up_for_long_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A network that drops packets: the look-up of a name hangs, which no timeout of httpx ends."""
    ended = threading.Event()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://hub.invalid")
    monkeypatch.setattr(presence, "_HUB_TIMEOUT_S", 0.2)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: ended.wait(60) and [])
    found = str(missing_weights("nobody/nothing"))
    ended.set()
    assert "http://hub.invalid cannot be reached (no answer within 0.2 s); put the model's" in found


def test_adapter_whose_base_is_gone_is_named(tmp_path: Path) -> None:
    original = OriginalLlava()
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    source = save_full(tmp_path / "llava", original.weights(tower=True))
    convert(source, base, vision_tower=original.save_tower(tmp_path / "clip"))
    convert(save_lora(tmp_path / "lora"), adapter, base=str(base))
    assert missing_weights(str(adapter)) is None
    shutil.rmtree(base)
    assert "is an adapter, and of its base: " in str(missing_weights(str(adapter)))
