"""What an installation lacks is named with the extra that brings it; shipped run files are found from a wheel."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from safemirage.config.generators import DecodingConfig
from safemirage.evaluation.generators.scripted import ScriptedGenerator
from safemirage.evaluation.judges.build import built_in_judge
from safemirage.evaluation.run.evaluate import EvaluationSpec, evaluate
from safemirage.settings import Settings
from safemirage.store import open_store
from tests.evaluation.mirage import six_samples
from tests.vlguard_files import safe_record, unsafe_record

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.processes
BLOCK = """
import os, sys

for name in os.environ["BLOCKED"].split():
    sys.modules[name] = None
"""
"""A sitecustomize that makes `import NAME` fail in a whole process, as where NAME is not installed."""


def call(
    *arguments: str, folder: Path, path: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    environment = {
        **{name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
        "PYTHONPATH": path,
        "SAFEMIRAGE_STORAGE": str(folder / "storage"),
        "SAFEMIRAGE_STORE_URL": "",
        "HF_HUB_OFFLINE": "1",
        **variables,
    }
    return subprocess.run(
        [sys.executable, "-m", "safemirage.cli", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data file, and a finished evaluation in its storage."""
    folder = tmp_path_factory.mktemp("workplace")
    records = [unsafe_record(f"u{i}") for i in range(5)] + [safe_record(f"s{i}") for i in range(5)]
    (folder / "train.json").write_text(json.dumps(records))
    (folder / "block").mkdir()
    (folder / "block" / "sitecustomize.py").write_text(BLOCK)
    settings = Settings.at(folder / "storage")
    spec = EvaluationSpec(id="done", model="m", decoding=DecodingConfig())
    generator = ScriptedGenerator(lambda request: "a cup", version="1")
    judges = [built_in_judge("keywords")]
    with open_store(settings.store_url) as store:
        asyncio.run(evaluate(spec, six_samples(2), generator, judges, store=store))
    return folder


@pytest.mark.parametrize(
    ("module", "extra", "arguments"),
    [
        ("torch", "train", ["train", "configs:train/miniature_npo.yaml"]),
        ("ray", "ray", ["search", "configs:search/miniature_npo.yaml"]),
        ("fastapi", "serve", ["serve", "configs:serve/local.yaml"]),
        ("matplotlib", "plot", ["audit", "train.json", "--plot", "audit.svg"]),
        ("pyarrow", "parquet", ["export", "done", "out"]),
        ("inspect_ai", "inspect", ["export", "done", "out", "--format", "inspect"]),
        ("psycopg", "postgres", ["list"]),
        ("vllm", "vllm", ["evaluate", "configs:evaluate/vllm_gpu.yaml"]),
    ],
)
def test_missing_library_is_named_with_its_extra(
    workplace: Path, module: str, extra: str, arguments: list[str]
) -> None:
    url = {"SAFEMIRAGE_STORE_URL": "postgresql+psycopg://127.0.0.1/x"} if extra == "postgres" else {}  # fmt: skip
    path = f"{workplace / 'block'}{os.pathsep}{ROOT}"
    done = call(*arguments, folder=workplace, path=path, BLOCKED=module, **url)
    assert done.returncode == 2, done.stderr
    assert f"{module} is not installed; pip install 'safemirage[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_shipped_run_files_are_named_from_a_wheel_in_an_empty_folder(
    tmp_path: Path,
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("safemirage", "ray_jobs", "serve_app", "configs"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", ".", "./source"]
    subprocess.run(build, cwd=tmp_path, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True)
    empty = tmp_path / "empty"
    empty.mkdir()

    listed = call("list", "configs", "--json", "-", folder=empty, path=str(site))
    files = {one["name"]: one["what"] for one in json.loads(listed.stdout)["configs"]}
    shipped = {path.relative_to(ROOT / "configs").as_posix() for path in (ROOT / "configs").rglob("*.yaml")}  # fmt: skip
    assert files.keys() == {f"configs:{name}" for name in shipped}
    assert files["configs:probe/relearn.yaml"].startswith("Fine-tunes an export on records")
    code = (
        "import safemirage; from safemirage.config.plan import load_search;"
        "print(safemirage.__file__, load_search('configs:search/miniature_npo.yaml').config.base);"
        "print(load_search('mine.yaml').config.base)"
    )
    (empty / "mine.yaml").write_text(
        (ROOT / "configs/search/miniature_npo.yaml")
        .read_text()
        .replace("base: ../train/", "base: configs:train/")
    )
    environment = {**os.environ, "PYTHONPATH": str(site)}
    loaded = subprocess.run([sys.executable, "-c", code], cwd=empty, env=environment, capture_output=True, text=True)  # fmt: skip
    base = str(site / "configs" / "train" / "miniature_npo.yaml")
    assert loaded.stdout.split() == [str(site / "safemirage" / "__init__.py"), base, base]
    report = call("report", "configs:evaluate/url.yaml", folder=empty, path=str(site))
    assert f"{empty / 'data/suites/vlguard'}: no such file" in report.stderr, "the file was read"
    wrong = call("train", "configs:train/nothing.yaml", folder=empty, path=str(site))
    assert (wrong.returncode, wrong.stderr) == (2, "error: configs:train/nothing.yaml: no such file is shipped; `safemirage list configs` shows those that are\n")  # fmt: skip
