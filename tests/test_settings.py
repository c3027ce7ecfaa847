"""Where things are kept is read at one place, once; secrets are shown nowhere; inputs hold from any folder."""

import ast
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import make_url

import configs
from safemirage.config.data import DataConfig
from safemirage.config.evaluate import EvaluateConfig
from safemirage.config.generators import OpenAIConfig
from safemirage.config.judges import ModelJudgeConfig
from safemirage.config.loading.load import ConfigError, build_config, load_config
from safemirage.databases import full, sqlite_url
from safemirage.settings import Secrets, Settings, api_key_names, read_settings
from safemirage.store import open_store
from tests.test_tiers import modules

SECRET = "s3cr3t-of-a-user"
OURS = ("SAFEMIRAGE_STORAGE", "SAFEMIRAGE_STORE_URL", "SAFEMIRAGE_DATA", "MLFLOW_TRACKING_URI")
JOB = {"RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps({"runtime_env": {"working_dir": "gcs://_ray_pkg_1.zip"}})}  # fmt: skip


def read(tmp_path: Path, **environment: str) -> Settings:
    return read_settings(environment={"SAFEMIRAGE_STORAGE": str(tmp_path), **environment})


def names_of_settings(source: str) -> list[str]:
    return [
        node.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and node.value in OURS
    ]


def test_settings_are_named_by_no_other_module() -> None:
    assert names_of_settings("import os\nos.environ['SAFEMIRAGE_STORAGE']") == [OURS[0]]
    others = {
        module: found
        for module, path in modules().items()
        if module != "safemirage.settings" and (found := names_of_settings(path.read_text()))
    }
    assert others == {}


@pytest.mark.parametrize("name", ["plain", "a%20b", "what?", "a#b", "a b{c}é"])
def test_databases_lie_in_a_storage_of_any_name(name: str, tmp_path: Path) -> None:
    root = tmp_path / name
    settings = Settings.at(root)
    with open_store(settings.store_url) as store:
        store.runs.register("run-1", name="a", kind="train", config={})
    assert (root / "store.db").is_file()
    # What is given to a library as text comes back as the same file.
    for text in (settings.tracking_uri, full(sqlite_url(root / "studies.db"))):
        assert Path(str(make_url(text).database)).parent == root


def test_settings_show_no_secret_and_travel_whole(tmp_path: Path) -> None:
    settings = read_settings(
        environment={
            "SAFEMIRAGE_STORAGE": str(tmp_path),
            "SAFEMIRAGE_STORE_URL": f"postgresql://me:{SECRET}@host/db",
            "MLFLOW_TRACKING_URI": f"https://me:{SECRET}@host",
            "HF_TOKEN": SECRET,
            "JUDGE_KEY": SECRET,
            "VLLM_API_KEY": SECRET,
            "HTTPS_PROXY": f"http://me:{SECRET}@proxy",
            "NCCL_DEBUG": "INFO",
            "HF_HOME": "/hub",
            "GITHUB_TOKEN": SECRET,
        },
        secrets=["JUDGE_KEY"],
    )
    assert SECRET not in repr(settings) + str(settings)
    assert settings.variables == {"HF_HOME": "/hub", "NCCL_DEBUG": "INFO"}
    assert repr(settings.secrets) == "Secrets(HF_TOKEN, HTTPS_PROXY, JUDGE_KEY)"
    there = pickle.loads(pickle.dumps(settings))
    assert there.store_url.password == SECRET
    assert there.tracking_uri == settings.tracking_uri


def test_secrets_are_put_into_the_environment_where_none_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "of the node")
    monkeypatch.setenv("PGPASSWORD", "to be removed")
    monkeypatch.delenv("PGPASSWORD")
    Secrets({"HF_TOKEN": "a", "PGPASSWORD": "b"}).install()
    assert (os.environ["HF_TOKEN"], os.environ["PGPASSWORD"]) == ("of the node", "b")


@pytest.mark.parametrize(
    "environment",
    [
        {"SAFEMIRAGE_STORE_URL": f"postgresql://me:{SECRET}@host/db"},
        {"MLFLOW_TRACKING_URI": f"https://me:{SECRET}@host"},
    ],
)
def test_variables_of_a_job_hold_no_password(environment: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds a password") as caught:
        read(tmp_path, **environment).job_variables()
    assert SECRET not in str(caught.value)


def test_job_with_the_variables_of_a_shell_has_its_settings(tmp_path: Path) -> None:
    given = {"SAFEMIRAGE_STORE_URL": "postgresql://me@host/db", "HF_TOKEN": SECRET}
    settings = read(tmp_path, **given)
    variables = settings.job_variables()
    assert SECRET not in str(variables)
    of_node = {"MLFLOW_TRACKING_URI": "http://of.the.node", "SAFEMIRAGE_STORAGE": "/of/the/node"}
    there = read_settings(environment={**of_node, **variables, **JOB})
    assert there.storage == settings.storage
    assert there.store_url == settings.store_url
    assert there.tracking_uri == settings.tracking_uri
    assert there.data == Path.cwd()


def test_tracking_database_that_is_relative_is_the_same_for_processes_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = read(tmp_path, MLFLOW_TRACKING_URI="sqlite:///mlruns.db")
    assert make_url(settings.tracking_uri).database == str(tmp_path / "mlruns.db")


def test_settings_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    for environment, message in (
        ({"SAFEMIRAGE_STORAGE": "s3://bucket"}, "SAFEMIRAGE_STORAGE: 's3://bucket' is a URI"),
        ({"SAFEMIRAGE_DATA": "data"}, "SAFEMIRAGE_DATA: 'data' is relative"),
        ({"SAFEMIRAGE_STORE_URL": "mysql://host/db"}, "'mysql' is not supported"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_settings(environment={"SAFEMIRAGE_STORAGE": str(tmp_path), **environment})


def evaluation(**branches: object) -> EvaluateConfig:
    tree = {"model": {"name": "transformers", "path": "exports/mixed"}, "suite": "suites/a"}
    return build_config(EvaluateConfig, {**tree, **branches})


def test_relative_inputs_are_looked_up_in_the_data_folder(tmp_path: Path) -> None:
    settings = read(tmp_path, SAFEMIRAGE_DATA=str(tmp_path / "data"), **JOB)
    located = settings.located(evaluation())
    assert located.suite == str(tmp_path / "data" / "suites" / "a")
    assert getattr(located.model, "path", "") == "exports/mixed"  # a hub id, as nothing is there
    (tmp_path / "data" / "exports" / "mixed").mkdir(parents=True)
    found = settings.located(evaluation()).model
    assert getattr(found, "path", "") == str(tmp_path / "data" / "exports" / "mixed")
    data = settings.located(DataConfig(retain="miniature:train/sft.json", image_folder="/images"))
    assert (data.retain, data.image_folder) == ("miniature:train/sft.json", "/images")


def test_image_folders_are_located_as_data_are(tmp_path: Path) -> None:
    settings = read(tmp_path / "storage", SAFEMIRAGE_DATA=str(tmp_path))
    files = Path(configs.__file__).parent / "evaluate"
    for file in files.glob("*.yaml"):
        located = settings.located(load_config(EvaluateConfig, file))
        for suite in (located.vlguard, located.set):
            images = getattr(suite, "images", None)
            assert images is None or images.startswith(f"{tmp_path}/data/")


def test_inputs_inside_a_list_are_located_too(tmp_path: Path) -> None:
    model = {"name": "transformers", "path": "./judge"}
    located = read(tmp_path).located(evaluation(judges=[{"name": "model", "model": model}]))
    (judge,) = located.judges
    assert isinstance(judge, ModelJudgeConfig)
    assert getattr(judge.model, "path", "") == str(Path.cwd() / "judge")


def test_relative_inputs_of_a_job_that_was_given_no_folder_are_refused_with_the_way_out(
    tmp_path: Path,
) -> None:
    settings = read(tmp_path, **JOB)
    with pytest.raises(ConfigError) as caught:
        settings.located(DataConfig(retain="retain.json", image_folder="images"))
    for expected in ("retain: 'retain.json'", "image_folder: 'images'", "SAFEMIRAGE_DATA"):
        assert expected in str(caught.value)


def test_keys_of_endpoints_are_found_wherever_a_config_names_one() -> None:
    model = {"name": "openai", "url": "http://h/v1", "model": "m", "api_key_env": "JUDGE_KEY"}
    config = evaluation(judges=[{"name": "model", "model": model}])
    assert api_key_names(config) == {"JUDGE_KEY"}
    assert api_key_names(OpenAIConfig(url="http://h/v1", model="m")) == {"OPENAI_API_KEY"}


_OPEN_ALL = """
import sys
from safemirage.settings import Settings
from safemirage.tracking import open_tracker
from ray_jobs.tune.study import open_studies, studies_url
from safemirage.store import open_store
settings = Settings.at(sys.argv[1])
print("ready", flush=True)
sys.stdin.read()
open_store(settings.store_url).close()
open_studies(studies_url(settings))
open_tracker(settings, "safemirage").start(sys.argv[2], name="x", config={})
"""


@pytest.mark.processes
@pytest.mark.timeout(240)  # three processes import MLflow and Ray
def test_databases_of_a_fresh_storage_may_be_opened_by_many_at_once(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _OPEN_ALL, str(tmp_path / "fresh"), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
    for process in processes:
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors
