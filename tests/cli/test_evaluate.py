"""`safemirage evaluate`: over HTTP in this process, and by transformers in processes that are killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from safemirage.store import open_store
from tests.cli.calling import run
from tests.evaluation.samples import sample_record, write_suite
from tests.evaluation.service import Service, running_service

ROOT = Path(__file__).parents[2]


@pytest.fixture
def service() -> Iterator[Service]:
    with running_service({"weights_digest": "w1"}) as running:
        yield running


@pytest.fixture(autouse=True)
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAFEMIRAGE_STORAGE", str(tmp_path / "storage"))
    monkeypatch.delenv("SAFEMIRAGE_STORE_URL", raising=False)
    return tmp_path / "storage"


def _config(folder: Path, model: dict[str, Any], count: int = 3, **fields: Any) -> Path:
    suite = write_suite(folder / "suite", [sample_record(str(index)) for index in range(count)])
    path = folder / "evaluation.yaml"
    tree = {"name": "tiny", "model": model, "suite": str(suite), **fields}
    path.write_text(yaml.safe_dump(tree))
    return path


def _remote(service: Service, **fields: Any) -> dict[str, Any]:
    given = {"name": "openai", "url": service.url, "model": "m", "attempts": 1}
    return {**given, **fields}


def test_evaluate_prints_the_table_and_a_second_run_calls_no_model(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    guard = {"name": "model", "title": "guard", "model": _remote(service)}
    config = _config(tmp_path, _remote(service), judges=[{"name": "oracle"}, guard])
    out = tmp_path / "out.json"
    assert run("evaluate", config, "--json", out) == 0
    screen = capsys.readouterr().out
    assert "100 %" in screen
    assert "model calls: 3 for answers, 3 for verdicts" in screen
    first = json.loads(out.read_text())
    assert (first["samples"], first["calls"]) == (3, {"answers": 3, "verdicts": 3})
    assert {row["judge"] for row in first["rows"]} == {"oracle", "guard"}

    assert run("evaluate", config, "--json", out) == 0
    assert "model calls: 0 for answers, 0 for verdicts" in capsys.readouterr().out
    second = json.loads(out.read_text())
    assert {**second, "calls": first["calls"]} == first
    assert len(service.asked) == 6


def test_evaluate_takes_overrides(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("evaluate", _config(tmp_path, _remote(service)), "sample=2", "name=two") == 0
    assert "evaluation two-" in capsys.readouterr().out
    assert len(service.asked) == 2


def test_evaluate_of_a_model_that_is_not_there_says_so_and_exits_1(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = _config(tmp_path, _remote(service, url="http://127.0.0.1:9/v1"))
    assert run("evaluate", config) == 2
    error = capsys.readouterr().err
    assert "127.0.0.1:9" in error
    assert "Traceback" not in error


def test_evaluate_that_was_cancelled_by_another_exits_1(
    service: Service, tmp_path: Path, storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def cancel() -> None:
        with open_store(f"sqlite:///{storage / 'store.db'}") as store:
            for evaluation in store.evaluations.list():
                store.evaluations.cancel(evaluation.id)

    service.on_question = cancel
    assert run("evaluate", _config(tmp_path, _remote(service), batch_size=1)) == 1
    assert "cancelled" in capsys.readouterr().err


def test_evaluate_of_a_suite_that_is_not_there_says_so(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = _config(tmp_path, _remote(service))
    assert run("evaluate", config, f"suite={tmp_path / 'none'}") == 2
    assert str(tmp_path / "none") in capsys.readouterr().err


@pytest.mark.model
def test_evaluate_of_models_and_suites_prints_a_table_for_each_suite(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.tiny import make_tiny_llava

    options: list[str | Path] = []
    for seed, name in enumerate("ab"):
        options += ["--model", make_tiny_llava(tmp_path / name, seed)]
    for name in "st":
        options += ["--suite", write_suite(tmp_path / name, [sample_record(name)])]
    asked = [ROOT / "configs/evaluate/transformers.yaml", *options, "decoding.max_new_tokens=4"]
    assert run("evaluate", *asked) == 0
    printed = capsys.readouterr()
    assert {"s", "t"} <= set(printed.out.splitlines()), "each table's title"
    assert "model calls: 4 for answers, 0 for verdicts" in printed.out
    assert "a s: 1/1" in printed.err
    assert run("evaluate", *asked, "--json", "-") == 0
    trees = json.loads(capsys.readouterr().out)
    assert [(tree["samples"], tree["calls"]["answers"]) for tree in trees] == [(1, 0)] * 4
    assert [tree["spec"]["suite"] for tree in trees] == ["s", "t"] * 2
    assert run("evaluate", *asked, "--model", tmp_path / "other" / "a") == 2
    assert "hold a folder name twice" in capsys.readouterr().err
    assert run("evaluate", *asked, "--gpus", "1") == 2, "only with --ray"


def _start(config: Path, out: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "safemirage.cli", "evaluate", str(config), "--json", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        # Where the tests run in the background, interrupts are ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def _finish(config: Path, out: Path) -> dict[str, Any]:
    process = _start(config, out)
    _, error = process.communicate(timeout=400)
    assert process.returncode == 0, error
    return dict(json.loads(out.read_text()))


def _wait_for_batches(store_url: str, process: "subprocess.Popen[str]", count: int) -> None:
    with open_store(store_url) as store:
        while True:
            assert process.poll() is None, "it ended before it was interrupted"
            if any(evaluation.done >= count for evaluation in store.evaluations.list()):
                return
            time.sleep(0.02)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The config of an evaluation of 500 samples, and what it comes to when nothing disturbs it."""
    from tests.tiny import make_tiny_llava

    folder = tmp_path_factory.mktemp("undisturbed")
    model = {"name": "transformers", "path": str(make_tiny_llava(folder / "model"))}
    decoding = {"max_new_tokens": 16}
    config = _config(folder, model, 500, decoding=decoding, batch_size=20)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SAFEMIRAGE_STORAGE", str(folder / "storage"))
        patched.delenv("SAFEMIRAGE_STORE_URL", raising=False)
        result = _finish(config, folder / "out.json")
    assert result["calls"]["answers"] == 500
    with open_store(f"sqlite:///{folder / 'storage' / 'store.db'}") as store:
        result["stored"] = store.evaluations.samples(result["evaluation"])
    return config, result


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["SIGKILL", "SIGINT"])
def test_evaluate_of_500_samples_interrupted_and_started_again_loses_no_finished_batch(
    how: signal.Signals, undisturbed: tuple[Path, dict[str, Any]], storage: Path, tmp_path: Path
) -> None:
    config, expected = undisturbed
    url = f"sqlite:///{storage / 'store.db'}"
    process = _start(config, tmp_path / "interrupted.json")
    _wait_for_batches(url, process, 100)
    process.send_signal(how)
    _, error = process.communicate(timeout=120)
    assert process.returncode == (-signal.SIGKILL if how is signal.SIGKILL else 130), error
    with open_store(url) as store:
        (record,) = store.evaluations.list()
    # Who is killed cannot give the evaluation back: it stands as running until the lease has run out.
    assert record.state == ("running" if how is signal.SIGKILL else "queued")
    again = _finish(config, tmp_path / "again.json")
    assert again["rows"] == expected["rows"]
    # At most one batch was answered and not yet counted as done.
    assert 480 - record.done <= again["calls"]["answers"] <= 500 - record.done
    with open_store(url) as store:
        assert store.evaluations.samples(again["evaluation"]) == expected["stored"]
