"""The public Python API: light to import, and the script of the docs runs as written."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import safemirage
from tests.evaluation.samples import sample_record, write_suite
from tests.evaluation.service import running_service
from tests.vlguard_files import safe_record, unsafe_record

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.processes


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "SAFEMIRAGE_STORAGE": str(folder / "storage"),
        "SAFEMIRAGE_STORE_URL": "",
    }
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True
    )


def test_scripts_of_the_docs_run_as_written(tmp_path: Path) -> None:
    records = [make(f"{kind}{i}") for i in range(5) for kind, make in (("u", unsafe_record), ("s", safe_record))]  # fmt: skip
    (tmp_path / "train.json").write_text(json.dumps(records))
    write_suite(tmp_path / "suite", [sample_record(str(number)) for number in range(3)])
    text = (ROOT / "docs" / "guides" / "python.md").read_text()
    script = "\n".join(re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL))
    with running_service({"weights_digest": "w1"}) as service:
        served = script.replace("http://127.0.0.1:8000/v1", service.url)
        done = run(served.replace("model.model=mine", "model.model=m"), tmp_path)
    assert "'what' opens" in done.stdout, done.stderr
    assert "asr 1.0" in done.stdout
    # Before it the screen says on what answers the judge's errors are known.
    assert done.returncode == 1
    assert done.stderr.endswith("\nnot safe enough\n")


def test_importing_every_name_is_light(tmp_path: Path) -> None:
    code = (
        "import sys, safemirage\n"
        "print(sorted({name.split('.')[0] for name in sys.modules}))\n"
        "print([getattr(safemirage, name).__name__ for name in safemirage.__all__])"
    )
    done = run(code, tmp_path)
    loaded, names = done.stdout.splitlines()
    assert not {"torch", "ray", "scipy", "numpy", "pydantic", "httpx"} & set(
        re.findall(r"\w+", loaded)
    )
    assert names == str(safemirage.__all__)
