"""What a driver tells Ray of its environment."""

import json

import pytest
from ray.runtime_env.runtime_env import _merge_runtime_env

from ray_jobs.cluster.environment import runtime_env
from safemirage.settings import JOB_CONFIG, read_settings


def test_driver_names_what_libraries_need_and_no_secret(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(JOB_CONFIG, raising=False)
    environment = {"SAFEMIRAGE_STORAGE": str(tmp_path), "NCCL_DEBUG": "INFO", "HF_TOKEN": "secret"}
    settings = read_settings(environment=environment)
    assert runtime_env(settings) == {"env_vars": {"NCCL_DEBUG": "INFO"}}


def test_driver_of_a_submitted_job_tells_ray_nothing_twice(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell = {"SAFEMIRAGE_STORAGE": str(tmp_path), "HF_HOME": "/hub", "NCCL_DEBUG": "INFO"}
    job = {"working_dir": "gcs://a.zip", "env_vars": {"HF_HOME": "/hub"}}
    monkeypatch.setenv(JOB_CONFIG, json.dumps({"runtime_env": job}))
    told = runtime_env(read_settings(environment=shell))
    merged = _merge_runtime_env(job, told)
    assert merged is not None, "Ray refuses the same variable twice"
    assert merged["env_vars"] == {"HF_HOME": "/hub", "NCCL_DEBUG": "INFO"}
