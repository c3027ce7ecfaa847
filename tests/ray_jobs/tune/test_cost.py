"""What `search --plan` says of a shipped search: on a machine that has neither its model nor its GPUs."""

import os
import subprocess
import sys
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest

from ray_jobs.tune.cost import describe_plan, trial_cost
from safemirage.config.plan import load_search
from safemirage.settings import Settings

SEARCH = Path(str(files("configs"))) / "search" / "llava_v1.5_7b_npo.yaml"


def test_plan_says_trials_hours_disk_and_what_is_missing_without_torch_and_ray(
    tmp_path: Path,
) -> None:
    code = (
        "import sys; from pathlib import Path; from ray_jobs.search import run_command\n"
        "code = run_command(Path(sys.argv[1]), [], plan=True)\n"
        "assert not {'torch', 'ray', 'optuna'} & sys.modules.keys()\n"
        "sys.exit(code)"
    )
    environment = {**os.environ, "SAFEMIRAGE_STORAGE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", code, str(SEARCH)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    plan, _, missing = done.stdout.partition("missing:\n")
    assert "32 trials, 3 of them given and the rest from the sampler tpe; each on 8 GPUs" in plan
    assert "a trial: 250 steps of 7 billion parameters" in plan
    assert "disk: 14 GB a trial, 448 GB for all" in plan
    keys = ("model.path: ", "data.forget: ", "selection.suite: ", "selection.judges.0.model.url")
    assert all(f"\n{key}" in f"\n{missing}" for key in keys)


def test_trial_costs_its_steps_sets_and_seeds_and_an_adapter_takes_less_disk(
    tmp_path: Path,
) -> None:
    plan = load_search(SEARCH)
    cost = trial_cost(plan)
    assert cost is not None
    # 250 steps of 8 + 8 samples; forward, backward and one forward more for checkpointing: 8 operations each.
    assert cost.train_hours * 3600 == pytest.approx(250 * 16 * 700 * 8 * 7e9 / 150e12)
    adapter = trial_cost(load_search(SEARCH.with_name("llava_v1.5_7b_npo_lora.yaml")))
    assert adapter is not None
    assert adapter.export_bytes < cost.export_bytes / 10
    thrice = replace(plan, config=replace(plan.config, seeds=(1, 2, 3)))
    said = f"about {3 * 32 * cost.hours:.3g} GPU-hours for 32 trials"
    assert said in describe_plan(thrice, Settings.at(tmp_path))
