"""README's measuring commands, as they are written, one after another: VLGuard's own test file, a tiny model.

What README leaves to the user's machine is added at a line's end: another judge than a served 7B, the CPU, fewer questions.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.readme import README, lines
from tests.tiny import make_tiny_llava

SMALL = "'judges=[{name: refusal_rules}]' model.device=cpu model.dtype=float32 decoding.max_new_tokens=8"
WALK = {
    "safemirage audit": "",
    "safemirage evaluate": f"{SMALL} sample=20",
    "safemirage attack configs": "",
    "safemirage attack-search": f"{SMALL} sample=20 more_words=[]",
    "safemirage rescore": "",
    "safemirage compare": "",
    "safemirage report": "",
    "safemirage gate": "",
    "safemirage list": "",
}
"""How a line of README starts, and what is added to it."""


@pytest.fixture
def project(vlguard: Path, tmp_path: Path) -> Path:
    """A folder as README's user has it: shipped run files, VLGuard's files and pictures, a checkpoint."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "configs").symlink_to(README.parent / "configs")
    (folder / "train.json").symlink_to(vlguard / "train.json")
    (folder / "test.json").symlink_to(vlguard / "test.json")
    data = folder / "data" / "vlguard"
    (data / "test").mkdir(parents=True)
    for file in vlguard.glob("*.json"):
        (data / file.name).symlink_to(file)
    for place, record in enumerate(json.loads((vlguard / "test.json").read_text())):
        picture = data / "test" / record["image"]
        picture.parent.mkdir(parents=True, exist_ok=True)
        colour = (place % 256, place // 256 * 50, 128)
        Image.new("RGB", (24, 24), colour).save(picture)
    make_tiny_llava(folder / "exports" / "mixed")
    return folder


def walk(project: Path, line: str) -> "subprocess.CompletedProcess[str]":
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(README.parent),
        "SAFEMIRAGE_STORAGE": str(project / "storage"),
    }
    return subprocess.run(
        ["bash", "-c", line], cwd=project, env=environment, capture_output=True, text=True
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_measuring_commands_of_readme_run_as_written(project: Path) -> None:
    for start, added in WALK.items():
        (line,) = [one for one in lines() if one.startswith(start)]
        command = f"{line.partition(' #')[0].rstrip()} {added}"
        # No judge here says what is useful, and a bar on a rate that nobody measured is refused.
        command = command.replace('"useful_rate>=0.9"', "")
        done = walk(project, command)
        # A gate that says no has done its work.
        allowed = {0, 1} if start == "safemirage gate" else {0}
        assert done.returncode in allowed, f"{command}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        if start == "safemirage evaluate":
            # README compares with a base and an unlearned model, which are this one under other names and other weights.
            for name, seed in (("base", 1), ("npo", 2)):
                make_tiny_llava(project / "exports" / name, seed=seed)
                other = command.replace("mixed", name)
                assert walk(project, other).returncode == 0, other
    report = json.loads((project / "report" / "report.json").read_text())
    assert {row["model"] for row in report["rows"]} == {"base", "mixed", "npo"}
    assert (project / "suites" / "words" / "suite.json").is_file()
    assert list((project / "changes").iterdir())
