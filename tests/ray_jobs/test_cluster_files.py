"""The files of configs/cluster, each by what can check it without the platform that it is for."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator
from ray.autoscaler._private.util import (
    prepare_config,
    validate_config,
)  # as `ray up` does, Ray 2.60
from ray.serve.schema import ServeDeploySchema

import configs
from safemirage.config.loading.load import load_config, run_file
from safemirage.config.train import TrainConfig
from serve_app.app import BuildArgs

CLUSTER = Path(configs.__file__).parent / "cluster"
KUBERAY = sorted((CLUSTER / "kuberay").glob("*.yaml"))
SCHEMAS = json.loads((Path(__file__).parent / "kuberay_1.7.0.json").read_text())


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(path.read_text())
    return content


def strict(schema: Any) -> Any:
    """The schema, with no keys allowed but those that it names: Kubernetes drops the others without a word."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: strict(part) for key, part in schema.items()}
    if isinstance(schema.get("properties"), dict):
        closed.setdefault("additionalProperties", False)
    return closed


def problems(resource: dict[str, Any]) -> list[str]:
    schema = {**SCHEMAS["kinds"][resource["kind"]], "definitions": SCHEMAS["definitions"]}
    schema["properties"]["metadata"] = {"required": ["name"]}
    found = Draft7Validator(strict(schema)).iter_errors(resource)
    return [f"{error.json_path}: {error.message}" for error in found]


def test_kuberay_files_are_found() -> None:
    assert [path.stem for path in KUBERAY] == ["cluster", "job", "service"]


@pytest.mark.parametrize("path", KUBERAY, ids=lambda path: path.stem)
def test_kuberay_file_is_what_kuberay_takes(path: Path) -> None:
    resource = read(path)
    assert problems(resource) == []
    resource["spec"]["rayVersio"] = "2.60.0"
    assert problems(resource) == [
        "$.spec: Additional properties are not allowed ('rayVersio' was unexpected)"
    ]


@pytest.mark.parametrize("path", KUBERAY, ids=lambda path: path.stem)
def test_kuberay_clusters_ask_for_rays_token_and_have_our_image_in_every_pod(path: Path) -> None:
    spec = read(path)["spec"]
    cluster = spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec
    assert cluster["authOptions"] == {"mode": "token"}
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        (container,) = group["template"]["spec"]["containers"]
        assert container["image"] == f"<registry>/safemirage:{version('safemirage')}"


def test_kuberay_job_names_a_shipped_run_file_with_overrides_that_it_takes() -> None:
    command = read(CLUSTER / "kuberay/job.yaml")["spec"]["entrypoint"].split()
    assert command[:3] == ["python", "-m", "ray_jobs.train"]
    load_config(TrainConfig, run_file(command[3]), command[4:])


def test_kuberay_service_is_what_serve_and_our_service_take() -> None:
    deployed = ServeDeploySchema.model_validate(
        yaml.safe_load(read(CLUSTER / "kuberay/service.yaml")["spec"]["serveConfigV2"])
    )
    (application,) = deployed.applications
    arguments = BuildArgs.model_validate(application.args)
    assert application.import_path == "serve_app.app:build"
    assert arguments.config.auth == "token"


def test_ray_up_file_is_what_ray_up_takes() -> None:
    config = read(CLUSTER / "ray_up.yaml")
    validate_config(prepare_config(config))
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert "RAY_AUTH_MODE=token" in config[commands][-1]
    with pytest.raises(Exception, match="cluster_nam"):
        validate_config({**config, "cluster_nam": "x"})


@pytest.mark.parametrize(
    "command",
    [
        ["hadolint", CLUSTER / "compose/Dockerfile"],
        ["shellcheck", CLUSTER / "slurm.sh"],
        [
            "check-jsonschema",
            "--builtin-schema",
            "vendor.compose-spec",
            CLUSTER / "compose/compose.yaml",
        ],
    ],
    ids=lambda command: str(command[0]),
)
def test_linter_finds_nothing(command: list[str | Path]) -> None:
    program = Path(sys.executable).with_name(str(command[0]))
    run = subprocess.run([program, *command[1:]], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
