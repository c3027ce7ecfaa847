"""The command line, as a user calls it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from safemirage.cli import main
from tests.data.conftest import conversation, safe_record, unsafe_record


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
    assert run("audit", path) == 1
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
    assert "'what' opens 88.9% of the safe questions" in screen
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
    assert run("prepare", "--train", train, "--out", out, "--seed", "1") == 1
    assert "--force" in capsys.readouterr().err
    assert run("prepare", "--train", train, "--out", out, "--seed", "1", "--force") == 0


def test_prepare_without_train_file_asks_for_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("prepare") == 2
    assert "--train" in capsys.readouterr().err


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
