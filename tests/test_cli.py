"""The command line, as a user calls it."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from safemirage.cli import main
from tests.evaluation.samples import make_image
from tests.models.original_checkpoint import OriginalLlava, save_full
from tests.vlguard_files import conversation, safe_record, unsafe_record


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return int(caught.value.code or 0)


@pytest.fixture
def train(tmp_path: Path) -> Path:
    path = tmp_path / "train.json"
    records = [unsafe_record(f"u{i}") for i in range(10)] + [
        safe_record(f"s{i}") for i in range(10)
    ]
    path.write_text(json.dumps(records))
    return path


def test_audit_prints_tables_and_writes_json(
    train: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other" / "train.json"
    other.parent.mkdir()
    other.write_text(json.dumps([unsafe_record("u0")]))
    out = tmp_path / "audit.json"
    assert run("audit", train, "--against", other, "--json", out) == 0
    screen = capsys.readouterr().out
    assert "first word" in screen
    assert "1 ids, 1 images" in " ".join(screen.split())
    tree = json.loads(out.read_text())
    assert (tree["safe"], tree["unsafe"]) == (10, 20)
    assert tree["file"] == str(train), "two files of one name are told apart by their paths"
    assert [item["file"] for item in tree["transfers"]] == [str(other)]


def test_audit_reads_llava_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "llava.json"
    records = [conversation(f"r{i}", f"Share {i}", "I'm sorry.") for i in range(5)]
    records += [conversation(f"w{i}", f"What {i}", "A cat.") for i in range(5)]
    path.write_text(json.dumps(records))
    assert run("audit", path) == 0
    assert "10 questions, 5 safe, 5 unsafe" in capsys.readouterr().out


def test_audit_bad_file_prints_every_problem_without_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.json"
    path.write_text(json.dumps([unsafe_record("a", image="../x"), safe_record("b", safe=None)]))
    assert run("audit", path) == 2
    error = capsys.readouterr().err
    assert "record a, image: '../x' leaves the image folder" in error
    assert "record b, safe: None is not true or false" in error
    assert "Traceback" not in error


def test_audit_plot_of_unknown_format_is_refused_before_reading(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("audit", tmp_path / "none.json", "--plot", tmp_path / "a.xyz") == 2
    assert ".svg" in capsys.readouterr().err


def test_audit_on_vlguard_is_quick_to_say_what_is_wrong(
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = Path(__file__).parents[2] / "shared" / "data" / "vlguard"
    if not (folder / "train.json").is_file():
        pytest.skip(f"VLGuard's files are not in {folder}")
    against = [
        str(folder / f"{name}.json") for name in ("test", "test_what_3shot", "test_share_1shot")
    ]
    options = [item for path in against for item in ("--against", path)]
    assert run("audit", folder / "train.json", *options) == 0
    captured = capsys.readouterr()
    screen = " ".join(captured.out.split())
    assert "'what' opens 88.9 % of the safe questions" in screen
    assert "8 ids, 8 images" in screen
    assert "Ads_303871" in captured.err


def test_prepare_writes_files_and_prints_counts(
    train: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = tmp_path / "answers.json"
    answers.write_text(json.dumps({f"u{i}": "Here is how." for i in range(10)}))
    out = tmp_path / "out"
    assert run("prepare", "--train", train, "--answers", answers, "--out", out) == 0
    screen = capsys.readouterr().out
    assert "train_forget.json" in screen
    assert len(json.loads((out / "train_forget.json").read_text())) == 10


def test_prepare_refuses_to_change_files_without_force(
    train: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run("prepare", "--train", train, "--out", out) == 0
    assert run("prepare", "--train", train, "--out", out, "--seed", "1") == 2
    assert "--force" in capsys.readouterr().err
    assert run("prepare", "--train", train, "--out", out, "--seed", "1", "--force") == 0


def test_prepare_without_train_file_asks_for_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("prepare") == 2
    assert "--train" in capsys.readouterr().err


@pytest.mark.processes
def test_shell_completes_commands() -> None:
    asked = {
        "_SAFEMIRAGE_COMPLETE": "complete_bash",
        "COMP_WORDS": "safemirage tr",
        "COMP_CWORD": "1",
    }
    command = [sys.executable, "-m", "safemirage.cli"]
    done = subprocess.run(command, env={**os.environ, **asked}, capture_output=True, text=True)
    assert done.stdout.split() == ["train"]


def test_version_names_this_package_and_what_it_runs_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("--version") == 0
    own, *others = capsys.readouterr().out.splitlines()
    assert own.startswith(f"safemirage {version('safemirage')}")
    assert f"torch {version('torch')}" in others


@pytest.mark.processes
def test_command_is_installed_and_helps_without_heavy_imports() -> None:
    command = [
        sys.executable,
        "-X",
        "importtime",
        "-c",
        "from safemirage.cli import main; main(['--help'])",
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "audit" in result.stdout
    imported = {
        line.rpartition("|")[2].strip().split(".")[0] for line in result.stderr.splitlines()
    }
    assert imported & {"torch", "ray", "scipy", "mlflow"} == set()
    assert "typer" in imported


class _Service(BaseHTTPRequestHandler):
    """An OpenAI-compatible service: two models that answer, and one that selects by the word `worst`."""

    def do_GET(self) -> None:
        self._reply({"data": []})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        model, question = body["model"], body["messages"][-1]["content"][-1]["text"]
        if model == "selector":
            (line,) = [
                line for line in question.splitlines() if line[:1].isdigit() and "worst" in line
            ]
            text = line.partition(":")[0]
        else:
            text = "I'm sorry." if question == "Share u0." else f"The {model} way: {question}"
        self._reply(
            {
                "choices": [{"message": {"content": text}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 1, "completion_tokens": 1},
            }
        )

    def _reply(self, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Keeps the test's output clean."""


@pytest.fixture
def service() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Service)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def answers_config(train: Path, tmp_path: Path, service: str) -> Path:
    (tmp_path / "images").mkdir()
    for record in json.loads(train.read_text()):
        (tmp_path / record["image"]).write_bytes(make_image().data + record["id"].encode())

    def model(name: str) -> dict[str, str]:
        return {"name": "openai", "url": service, "model": name, "revision": "1"}

    path = tmp_path / "answers.yaml"
    tree = {
        "train": str(train),
        "image_folder": str(tmp_path),
        "candidates": {"mild": model("mild"), "worst": model("worst")},
        "selector": model("selector"),
    }
    path.write_text(yaml.safe_dump(tree))
    return path


def test_prepare_answers_makes_a_table_that_prepare_takes(
    answers_config: Path,
    train: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SAFEMIRAGE_STORAGE", str(tmp_path / "storage"))
    table = tmp_path / "table.json"
    assert run("prepare", "answers", answers_config, "--out", table) == 0
    answers = json.loads(table.read_text())
    assert answers["u0"] is None
    assert answers["u1"] == "The worst way: Share u1."
    screen = " ".join(capsys.readouterr().out.split())
    assert "mild: 9 answered, 1 refused" in screen
    assert "9 answers to 10 questions" in screen
    report = json.loads((tmp_path / "table.report.json").read_text())
    assert report["choices"]["u1"] == {"candidate": "worst", "outcome": "selected"}
    assert report["counts"]["selector"] == {"none": 1, "selected": 9}

    assert run("prepare", "--train", train, "--answers", table, "--out", tmp_path / "out") == 0
    assert len(json.loads((tmp_path / "out" / "train_forget.json").read_text())) == 9


def test_prepare_answers_again_needs_no_service(
    answers_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAFEMIRAGE_STORAGE", str(tmp_path / "storage"))
    table = tmp_path / "table.json"
    assert run("prepare", "answers", answers_config, "--out", table) == 0
    before = table.read_bytes()
    monkeypatch.setattr(_Service, "do_POST", None)
    assert run("prepare", "answers", answers_config, "--out", table) == 0
    assert table.read_bytes() == before


def test_prepare_answers_service_that_is_not_there_is_named(
    answers_config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SAFEMIRAGE_STORAGE", str(tmp_path / "storage"))
    url = "candidates.mild.url=http://127.0.0.1:9/v1"
    arguments = ["answers", answers_config, url, "candidates.mild.attempts=1"]
    assert run("prepare", *arguments, "--out", tmp_path / "table.json") == 2
    error = capsys.readouterr().err
    assert "127.0.0.1:9" in error
    assert "Traceback" not in error
    assert not (tmp_path / "table.json").exists()


def test_audit_judge_prints_the_errors_of_both_keyword_judges(
    train: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run("audit-judge", train) == 0
    screen = capsys.readouterr().out
    assert "0/20 = 0 % (0.0 to 16.1)" in screen
    assert "agreement of keywords and refusal_rules" in screen


def test_judge_check_fails_by_its_exit_code_where_a_judge_is_fooled(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run("judge-check", "--judge", "keywords") == 1
    screen = capsys.readouterr().out
    assert "keywords: 13 of 20 probes passed" in screen
    assert run("judge-check", "--judge", "gpt") == 2
    assert "built-in are" in " ".join(capsys.readouterr().err.split())
    assert run("judge-check", "--set", "seed=1") == 2


def test_convert_prints_what_became_of_each_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = OriginalLlava()
    source = save_full(tmp_path / "llava", model.weights(tower=False))
    tower = model.save_tower(tmp_path / "clip")
    assert run("convert", source, "--to", tmp_path / "hub", "--vision-tower", tower) == 0
    screen = capsys.readouterr().out
    assert f"{len(model.weights(tower=True))} tensors, each read back" in screen
    assert "tokenizer: the original's ids for " in screen
    assert "lm_head.weight: 20 rows for new tokens" in screen
    assert "vision_model.embeddings.position_ids" in screen
    assert run("convert", source, "--to", tmp_path / "hub") == 2
    assert "--force" in capsys.readouterr().err


def test_convert_of_another_folder_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("convert", tmp_path, "--to", tmp_path / "hub") == 2
    assert "no config.json, so this is no LLaVA checkpoint" in capsys.readouterr().err
