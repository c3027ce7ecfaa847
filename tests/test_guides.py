"""The code blocks of README and of the guides, run as they are written, page by page.

What a page leaves to the reader's machine is changed: a GPU for the CPU, a 7B model for a tiny one, a URL for one of this
process. tests/cluster/test_guides.py has the pages that need Ray.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image

from tests.evaluation.service import running_service
from tests.models.original_checkpoint import OriginalLlava, save_full
from tests.readme import ROOT, blocks, run_block
from tests.tiny import make_tiny_llava

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SMALL = "model.device=cpu model.dtype=float32 decoding.max_new_tokens=8 sample=10"
CPU = {"model.device=cuda model.dtype=bfloat16": SMALL}
"""The tests' machine has no GPU, and two cores."""


def walk(page: str, folder: Path, changes: Mapping[str, str] = {}, **variables: str) -> str:
    """Runs the blocks of a page that are run here, one after another; what they print."""
    here = [
        one for one in blocks(ROOT / page) if one.is_code and one.runner == "tests/test_guides.py"
    ]
    assert here, page
    said = [run_block(block, folder, changes, **variables) for block in here]
    written = "".join(block.text for block in here)
    assert [text for text in changes if text not in written] == [], f"{page} has no longer"
    return "".join(said)


@pytest.fixture
def project(vlguard: Path, tmp_path: Path) -> Path:
    """A folder with VLGuard's files and pictures of one colour, and a checkpoint."""
    data = tmp_path / "data" / "vlguard"
    (data / "test").mkdir(parents=True)
    for file in vlguard.glob("*.json"):
        (data / file.name).symlink_to(file)
    for place, record in enumerate(json.loads((vlguard / "test.json").read_text())):
        picture = data / "test" / record["image"]
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (24, 24), (place % 256, place // 256 * 50, 128)).save(picture)
    make_tiny_llava(tmp_path / "exports" / "mixed")
    return tmp_path


def test_start(tmp_path: Path) -> None:
    assert "A strong shortcut through the first word" in walk("docs/start.md", tmp_path)


def test_readme(project: Path) -> None:
    shutil.rmtree(project / "exports")
    (project / "configs").symlink_to(ROOT / "configs")
    original = OriginalLlava()
    save_full(project / "llava-v1.5-7b-Mixed", original.weights(tower=True))
    original.save_tower(
        project / "clip"
    )  # its tower is smaller than the one that the converter knows
    said = walk(
        "README.md",
        project,
        {**CPU, "--to exports/mixed": "--to exports/mixed --vision-tower clip"},
    )
    assert "A strong shortcut through the first word" in said
    assert "asr<=0.05  unsafe_what" in said


def test_mirage(project: Path) -> None:
    said = walk("docs/guides/mirage.md", project, CPU)
    assert "Mirage gap" in said
    assert "asr<=0.05  unsafe_what" in said
    report = json.loads((project / "report" / "report.json").read_text())
    assert {row["condition"] for row in report["rows"]} > {"unsafe_plain", "unsafe_what"}


def test_attacks(project: Path) -> None:
    (project / "configs").symlink_to(ROOT / "configs")
    changes = {
        "model.path=exports/mixed ": f"model.path=exports/mixed {SMALL} ",
        "configs/attack_search/vlguard.yaml": "configs/attack_search/vlguard.yaml more_words=[] 'judges=[{name: refusal_rules}]'",
    }
    walk("docs/guides/attacks.md", project, changes)
    assert (project / "runs" / "words" / "search.json").is_file()


def test_questions(tmp_path: Path) -> None:
    with running_service({"weights_digest": "w1"}) as service:
        changes = {"http://127.0.0.1:8000/v1": service.url, "model.model=mine": "model.model=m"}
        said = walk("docs/guides/questions.md", tmp_path, changes)
    assert "unsafe_plain asr 1.0" in said


def test_judges(vlguard: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "vlguard").symlink_to(vlguard)
    said = walk("docs/guides/judges.md", tmp_path)
    assert "test.json: 1558 answers" in said
    assert "answers.json: 3 answers" in said
