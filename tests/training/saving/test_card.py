"""The run's card: what it says of data, losses and comparability."""

from pathlib import Path
from typing import Any

import pytest

from safemirage.config.loading.identity import folder_digest
from safemirage.config.train import TrainConfig
from safemirage.models.export import verify_export
from safemirage.training.job import Report, TrainJob
from safemirage.training.loop import train
from safemirage.training.saving.card import (
    DataSummary,
    RunSummary,
    card_text,
    caveats,
    loss_plot,
    write_card,
)
from tests.tiny_run import make_tiny_run, tiny_train_config

LORA = {"rank": 2, "alpha": 4.0, "dropout": 0.1}
HISTORY = [
    {"step": 1.0, "loss": 3.0, "forget/loss": 2.0, "retain/loss": 1.0, "memory/rss_mb": 1.0},
    {"step": 2.0, "loss": 2.5, "forget/loss": 1.75, "retain/loss": 0.75, "memory/rss_mb": 1.0},
]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return make_tiny_run(tmp_path_factory.mktemp("tiny"))


def summary(config: TrainConfig, **changes: Any) -> RunSummary:
    values: dict[str, Any] = {
        "run_id": "tiny-0123",
        "identity": "0123",
        "config": config,
        "data": {"retain": DataSummary(digest="ab" * 32, num_samples=6, num_truncated=0)},
        "history": HISTORY,
        "total_steps": 2,
        "resumed_from": 0,
        "attention": "sdpa",
        "git_commit": None,
    }
    return RunSummary(**{**values, **changes})


def test_card_of_a_float32_run_without_dropout_has_no_reservation(tree: dict[str, Any]) -> None:
    (line,) = caveats(summary(tiny_train_config(tree)))
    assert "whatever the number of workers" in line


def test_card_of_a_run_with_dropout_says_for_which_workers_its_losses_hold(
    tree: dict[str, Any],
) -> None:
    zero2 = {"name": "deepspeed", "stage": 2}
    config = tiny_train_config(
        tree, model={"lora": LORA, "dtype": "bfloat16"}, engine=zero2, workers={"count": 2}
    )
    dropout, precision = caveats(summary(config))
    assert "holds for 2 worker(s) and optim.accumulation=1 only" in dropout
    assert "bfloat16" in precision


def test_card_names_cut_samples_data_digests_and_first_and_last_losses(
    tree: dict[str, Any],
) -> None:
    cut = DataSummary(digest="cd" * 32, num_samples=6, num_truncated=2)
    found = summary(tiny_train_config(tree), data={"forget": cut}, resumed_from=1)
    text = card_text(found, has_plot=True)
    assert "2 of 6 samples of the forget set lost their end to model.max_length=2048" in text
    assert f"| forget | 6 | 2 | `{'cd' * 32}` |" in text
    assert "| forget/loss | 2 | 1.75 |" in text
    assert "memory/rss_mb" not in text
    assert "the last 1 in the last attempt" in text
    assert "beta: 0.5" in text


def test_loss_plot_is_a_picture_with_one_curve_a_loss(tree: dict[str, Any]) -> None:
    pytest.importorskip("matplotlib", reason="curves need the extra `plot`")
    plot = loss_plot(HISTORY)
    assert plot is not None
    assert plot.startswith(b"\x89PNG")
    assert set(write_card(summary(tiny_train_config(tree)))) == {"README.md", "card/losses.png"}


def test_train_exports_its_card_with_the_history_of_all_attempts(
    tree: dict[str, Any], tmp_path: Path
) -> None:
    class Killed(Exception):
        """Stands for the end of a process."""

    def run(*, kill: bool) -> None:
        def report(report: Report) -> None:
            if kill and report.checkpoint is not None:
                raise Killed

        job = TrainJob(
            config=tiny_train_config(tree, method={"name": "sft"}),
            run_id="tiny",
            identity="0",
            export=tmp_path / "export",
            cache=tmp_path / "cache",
            checkpoints=tmp_path / "checkpoints",
        )
        train(job, report=report)

    with pytest.raises(Killed):
        run(kill=True)
    run(kill=False)
    export = tmp_path / "export"
    text = (export / "README.md").read_text()
    assert "| | step 1 | step 6 |" in text
    assert "the last 4 in the last attempt" in text
    manifest = verify_export(export)
    assert "README.md" in manifest.files
    before = folder_digest(export)
    (export / "README.md").write_text("another commit, another time")
    assert folder_digest(export) == before
