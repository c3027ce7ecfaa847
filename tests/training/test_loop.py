import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from safemirage.config.loading.identity import file_digest
from safemirage.config.train import TrainConfig
from safemirage.models.loading import load_for_inference
from safemirage.training.job import Report, StepMetrics, TrainingDiverged, TrainJob, TrainSummary
from safemirage.training.loop import train
from tests.tiny_run import make_tiny_run, tiny_train_config

RMU = {"name": "rmu", "hook_layer": 1, "steering_coefficient": 2.0}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return make_tiny_run(tmp_path_factory.mktemp("tiny"))


class Recorder:
    """Keeps what a run reports; each checkpoint is copied into a folder that another run can be given."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.steps: list[StepMetrics] = []
        self.checkpoints: list[Path] = []
        self.summary: TrainSummary

    def __call__(self, report: Report) -> None:
        self.steps += report.steps
        if report.checkpoint is not None:
            kept = self.folder / f"checkpoint-{len(self.checkpoints)}"
            shutil.copytree(report.checkpoint, kept / report.checkpoint.name)
            self.checkpoints.append(kept)


def run(
    config: TrainConfig, folder: Path, *, checkpoints: Path | None = None, cache: Path | None = None
) -> Recorder:
    folder.mkdir(parents=True, exist_ok=True)
    recorder = Recorder(folder)
    job = TrainJob(
        config=config,
        run_id="tiny-0123",
        identity="0123",
        export=folder / "export",
        cache=cache or folder / "cache",
        checkpoints=checkpoints or folder / "checkpoints",
    )
    summary = train(job, report=recorder)
    recorder.summary = summary
    assert summary.steps == config.optim.steps
    assert summary.metrics == recorder.steps[-1]
    return recorder


def losses(recorder: Recorder) -> list[dict[str, float]]:
    """What must be the same whatever the machinery: no speeds, no memory."""
    return [
        {k: v for k, v in step.items() if not k.startswith(("speed/", "memory/"))}
        for step in recorder.steps
    ]


def assert_same_losses(first: Recorder, second: Recorder, *, rel: float) -> None:
    assert len(first.steps) == len(second.steps)
    for one, other in zip(losses(first), losses(second), strict=True):
        assert one == pytest.approx(other, rel=rel, abs=2e-5)  # log-ratios: differences of sums


def assert_same_weights(first: Recorder, second: Recorder) -> None:
    found = [
        load_file(next((r.folder / "export").glob("*model.safetensors"))) for r in (first, second)
    ]
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        assert torch.equal(value, found[1][name])


def test_train_npo_lowers_the_forget_log_ratio(tree: dict[str, Any], tmp_path: Path) -> None:
    recorder = run(tiny_train_config(tree), tmp_path)
    ratios = [step["forget/log_ratio"] for step in recorder.steps]
    # The first step's rate is 0 (warm-up), so the weights move from the second on.
    assert ratios[0] == pytest.approx(0.0, abs=1e-4)
    assert ratios[-1] < -1.0
    assert recorder.steps[-1]["loss"] < recorder.steps[0]["loss"]


def test_train_sft_lowers_the_loss(tree: dict[str, Any], tmp_path: Path) -> None:
    recorder = run(tiny_train_config(tree, method={"name": "sft"}), tmp_path)
    assert recorder.steps[-1]["retain/loss"] < 0.8 * recorder.steps[0]["retain/loss"]


def test_train_rmu_brings_the_control_vector_nearer(tree: dict[str, Any], tmp_path: Path) -> None:
    recorder = run(tiny_train_config(tree, method=RMU), tmp_path)
    forget = [step["forget/loss"] for step in recorder.steps]
    assert forget[-1] < forget[0]
    assert recorder.steps[0]["retain/activation_loss"] == 0.0


def test_train_dpo_compares_answers_of_the_same_questions(
    tree: dict[str, Any], tmp_path: Path
) -> None:
    config = tiny_train_config(
        tree, method={"name": "dpo", "beta": 0.5}, data={"preferred_answers": "refusals"}
    )
    recorder = run(config, tmp_path)
    assert recorder.steps[0]["forget/loss"] == pytest.approx(math.log(2.0), rel=1e-4)
    assert recorder.steps[0]["preferred/log_ratio"] == pytest.approx(0.0, abs=1e-3)
    last = recorder.steps[-1]
    assert last["preferred/log_ratio"] > last["forget/log_ratio"] + 1.0
    # One cache entry a set: forget and preferred.
    assert len(list((tmp_path / "cache" / "reference").iterdir())) == 2


@pytest.mark.parametrize(
    ("method", "parts"),
    [
        ({"name": "gradient_ascent", "kl_weight": 1.0}, {"retain/kl"}),
        ({"name": "simnpo", "beta": 0.5, "decouple_weight": 0.5}, {"decouple/loss"}),
        ({"name": "npo", "retain_term": "original"}, {"retain/npo_loss"}),
        ({"name": "idk"}, {"preferred/loss"}),
    ],
    ids=lambda value: value.get("name") if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("lora", [None, {"rank": 4, "alpha": 8.0}], ids=["full", "lora"])
def test_train_method_resumes_with_all_its_terms(
    tree: dict[str, Any], tmp_path: Path, method: dict[str, Any], parts: set[str], lora: Any
) -> None:
    data = {
        "preferred_answers": ["no"],
        "decouple": tree["data"]["forget"].replace("forget", "decouple"),
    }
    config = tiny_train_config(tree, method=method, data=data, model={"lora": lora})
    whole = run(config, tmp_path / "whole")
    assert parts <= whole.steps[0].keys()
    resumed = run(config, tmp_path / "resumed", checkpoints=whole.checkpoints[0])
    assert resumed.summary.resumed_from == 2
    assert losses(resumed) == losses(whole)


def test_train_same_seed_gives_the_same_losses_and_weights(
    tree: dict[str, Any], tmp_path: Path
) -> None:
    config = tiny_train_config(tree)
    first, second = run(config, tmp_path / "1"), run(config, tmp_path / "2")
    assert losses(first) == losses(second)
    assert_same_weights(first, second)


def test_train_other_seed_gives_other_losses(tree: dict[str, Any], tmp_path: Path) -> None:
    first = run(tiny_train_config(tree), tmp_path / "1")
    second = run(tiny_train_config(tree, seed=1), tmp_path / "2")
    assert losses(first) != losses(second)


@pytest.mark.parametrize(
    "branches",
    [
        {},
        {"method": RMU},
        {"model": {"lora": {"rank": 4, "alpha": 8.0, "dropout": 0.3}}},
    ],
    ids=["npo", "rmu", "npo-lora-dropout"],
)
def test_train_resumed_at_any_checkpoint_ends_as_if_undisturbed(
    tree: dict[str, Any], tmp_path: Path, branches: dict[str, Any]
) -> None:
    config = tiny_train_config(tree, **branches)
    whole = run(config, tmp_path / "whole")
    assert len(whole.checkpoints) == 2
    for index, checkpoint in enumerate(whole.checkpoints):
        resumed = run(config, tmp_path / f"from-{index}", checkpoints=checkpoint)
        done = 2 * (index + 1)
        assert losses(resumed) == losses(whole)
        assert resumed.summary.resumed_from == done
        assert_same_weights(resumed, whole)


def test_train_resumed_rmu_keeps_the_saved_control_vector(
    tree: dict[str, Any], tmp_path: Path
) -> None:
    whole = run(tiny_train_config(tree, method=RMU), tmp_path / "whole")
    file = whole.checkpoints[0] / "step-00000002" / "worker-00000.pt"
    state = torch.load(file, weights_only=True)
    vector = state["run"]["method"]["control_vector"]
    assert vector.norm().item() == pytest.approx(2.0)
    state["run"]["method"]["control_vector"] = -50 * vector
    torch.save(state, file)
    listed = json.loads(file.with_name("files.json").read_text())
    listed["files"][file.name] = {"sha256": file_digest(file), "bytes": file.stat().st_size}
    file.with_name("files.json").write_text(json.dumps(listed))
    changed = run(
        tiny_train_config(tree, method=RMU), tmp_path / "changed", checkpoints=whole.checkpoints[0]
    )
    assert changed.steps[2]["forget/loss"] > whole.steps[2]["forget/loss"]


@pytest.mark.parametrize("method", [{"name": "npo", "beta": 0.5}, RMU], ids=["npo", "rmu"])
def test_train_accumulation_does_not_change_the_losses(
    tree: dict[str, Any], tmp_path: Path, method: dict[str, Any]
) -> None:
    one = run(tiny_train_config(tree, method=method), tmp_path / "1")
    four = run(tiny_train_config(tree, method=method, optim={"accumulation": 4}), tmp_path / "4")
    assert_same_losses(one, four, rel=1e-4)


@pytest.mark.parametrize("method", [{"name": "npo", "beta": 0.5}, RMU], ids=["npo", "rmu"])
def test_train_gradient_checkpointing_does_not_change_the_losses(
    tree: dict[str, Any], tmp_path: Path, method: dict[str, Any]
) -> None:
    plain = run(tiny_train_config(tree, method=method), tmp_path / "plain")
    again = run(
        tiny_train_config(tree, method=method, model={"gradient_checkpointing": True}),
        tmp_path / "again",
    )
    assert_same_losses(plain, again, rel=1e-5)


def test_train_export_holds_what_was_trained(tree: dict[str, Any], tmp_path: Path) -> None:
    recorder = run(tiny_train_config(tree, method={"name": "sft"}), tmp_path)
    before = load_for_inference(tree["model"]["path"]).model.state_dict()
    after = load_for_inference(tmp_path / "export").model.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed
    assert not [name for name in changed if "vision_tower" in name]
    manifest = json.loads((tmp_path / "export" / "manifest.json").read_text())
    assert manifest["metrics"]["loss"] == recorder.steps[-1]["loss"]
    assert manifest["method"] == "sft"


def test_train_lora_exports_an_adapter(tree: dict[str, Any], tmp_path: Path) -> None:
    config = tiny_train_config(tree, model={"lora": {"rank": 4, "alpha": 8.0}})
    run(config, tmp_path)
    assert (tmp_path / "export" / "adapter_model.safetensors").is_file()


def test_train_reference_is_read_from_the_cache_by_a_later_run(
    tree: dict[str, Any], tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    first = run(tiny_train_config(tree), tmp_path / "1", cache=cache)
    (cached,) = (cache / "reference").iterdir()
    # Answers that the model does not give show whether they are read.
    save_file({"logps": load_file(cached)["logps"] - 100}, cached)
    second = run(tiny_train_config(tree), tmp_path / "2", cache=cache)
    assert list((cache / "reference").iterdir()) == [cached]
    ratios = [recorder.steps[0]["forget/log_ratio"] for recorder in (first, second)]
    assert ratios[1] - ratios[0] == pytest.approx(100, abs=1e-3)


LORA_PLAIN = {"lora": {"rank": 4, "alpha": 8.0, "dropout": 0.0}}


@pytest.mark.parametrize(
    ("branches", "stage"),
    [
        pytest.param({"method": {"name": "sft"}}, 0, id="sft-0"),
        pytest.param({"method": RMU, "model": LORA_PLAIN}, 2, id="rmu-lora-2"),
        # Stage 3 is where a method could ask for weights that are not there.
        pytest.param(
            {"method": {"name": "npo", "beta": 0.5, "reduction": "mean", "group_size": 2}},
            3,
            id="npo-mean-3",
        ),
        pytest.param({"method": RMU}, 3, id="rmu-3"),
        pytest.param({"method": RMU, "model": LORA_PLAIN}, 3, id="rmu-lora-3"),
        pytest.param(
            {"method": {"name": "dpo", "kl_weight": 0.5}, "data": {"preferred_answers": "idk"}},
            3,
            id="dpo-kl-3",
        ),
        pytest.param(
            {"method": RMU, "model": {"trainable": [r"layers\.[01]\.mlp\.down_proj"]}},
            3,
            id="rmu-down-proj-3",
        ),
    ],
)
@pytest.mark.timeout(180)
def test_train_deepspeed_gives_the_losses_and_weights_of_plain_torch(
    tree: dict[str, Any], tmp_path: Path, branches: dict[str, Any], stage: int
) -> None:
    plain = run(tiny_train_config(tree, **branches), tmp_path / "torch")
    engine = {"name": "deepspeed", "stage": stage}
    zero = run(
        tiny_train_config(tree, **branches, engine=engine, optim={"accumulation": 2}),
        tmp_path / "zero",
    )
    assert_same_losses(plain, zero, rel=1e-4)
    (weights,) = (plain.folder / "export").glob("*model.safetensors")
    exported = load_file(zero.folder / "export" / weights.name)
    for name, value in load_file(weights).items():
        torch.testing.assert_close(exported[name], value, rtol=1e-3, atol=1e-4)


def test_train_loss_that_is_not_finite_stops_the_run(tree: dict[str, Any], tmp_path: Path) -> None:
    config = tiny_train_config(tree, optim={"learning_rate": 1e30, "max_grad_norm": None})
    with pytest.raises(TrainingDiverged, match=r"step \d of 6"):
        run(config, tmp_path)


def test_train_report_every_s_gathers_steps_between_checkpoints(
    tree: dict[str, Any], tmp_path: Path
) -> None:
    reports: list[Report] = []
    job = TrainJob(
        config=tiny_train_config(tree, method={"name": "sft"}),
        run_id="tiny",
        identity="0",
        export=tmp_path / "export",
        cache=tmp_path / "cache",
        checkpoints=tmp_path / "checkpoints",
        report_every_s=3600,
    )
    train(job, report=reports.append)
    # A checkpoint is told of when it has been written, while the steps went on: after the fourth step at the latest.
    assert [step["step"] for r in reports for step in r.steps] == [1, 2, 3, 4, 5, 6]
    told = [r.checkpoint.name for r in reports if r.checkpoint is not None]
    assert told == ["step-00000002", "step-00000004"]
    assert len(reports) <= 3
