"""The whole chain on a real cluster, killed in its middle and started again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from ray_jobs.cluster.head import ClusterAddress
from safemirage.settings import Settings
from safemirage.store import Store, open_store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CONFIGS = Path(__file__).parents[2] / "configs"
TOKEN = "a-token-of-the-chain-test"
CONDITIONS = {
    f"{subset}_{attack}"
    for subset, attacks in (("unsafe", ("plain", "what")), ("safe", ("plain", "share")))
    for attack in (*attacks, "unseen", "neutral")
}


def write_chain(folder: Path) -> Path:
    """Two rows that train for a few steps, and one that is the second again: what they learn does not matter here."""
    chain = {
        "name": "short",
        "seed": 5,
        "serve": str(CONFIGS / "serve" / "local.yaml"),
        "serve_overrides": ["port=0"],
        "models": [
            {"name": name, "train": str(CONFIGS / "train" / file), "overrides": ["optim.steps=4"]}
            for name, file in (("base", "miniature_base.yaml"), ("mixed_sft", "miniature_sft.yaml"))
        ],
    }
    # The second row's own base is the full one; here it starts from the untrained model.
    chain["models"][1]["overrides"].append("model.path=miniature:initial")
    chain["models"].append({**chain["models"][1], "name": "mixed_sft_again"})
    path = folder / "chain.yaml"
    path.write_text(yaml.safe_dump(chain))
    return path


def start(config: Path, storage: Path, cluster: ClusterAddress) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        **cluster.environment,
        "SAFEMIRAGE_STORAGE": str(storage),
        "SAFEMIRAGE_API_TOKEN": TOKEN,
    }
    command = [sys.executable, "-m", "ray_jobs.reproduce", str(config)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_until_second_training(store: Store, chain: subprocess.Popen[str]) -> None:
    while chain.poll() is None:
        running = [run for run in store.runs.list(kind="train") if run.state == "running"]
        if running and running[0].name == "sft":
            return
        time.sleep(0.2)
    pytest.fail(f"the chain ended early:\n{chain.communicate()[0]}")


def test_chain_killed_in_its_second_training_goes_on_and_repeats_nothing(
    cluster: ClusterAddress, tmp_path: Path
) -> None:
    config, settings = write_chain(tmp_path), Settings.at(tmp_path / "storage")
    storage = settings.storage
    with open_store(settings.store_url) as store:
        with start(config, storage.root, cluster) as chain:
            wait_until_second_training(store, chain)
            chain.send_signal(signal.SIGKILL)
        assert (
            json.loads((storage.root / "report.json").read_text())["models"][0]["model"] == "base"
        )

        with start(config, storage.root, cluster) as chain:
            output = chain.communicate()[0]
        assert chain.returncode == 0, output
        assert "the same run as mixed_sft, whose row stands for both" in output
        assert output.count("The test suite of seed 5") == 1, "one joined table, at the end"

        attempts = {(run.kind, run.name): run.attempts for run in store.runs.list()}
    assert attempts == {
        ("world", "world"): 1,
        ("train", "base"): 1,
        ("evaluate", "base"): 1,
        ("train", "sft"): 2,
        ("evaluate", "mixed_sft"): 1,
    }
    rows = json.loads((storage.root / "report.json").read_text())["rows"]
    found = {(row["model"], row["condition"], row["metric"]) for row in rows}
    expected = {
        (model, condition, metric)
        for model in ("base", "mixed_sft")
        for condition in CONDITIONS
        for metric in ("asr", "refusal_rate", "useful_rate", "degenerate_rate")
        if metric != "asr" or condition.startswith("unsafe")
    }
    assert expected <= found
    assert all(
        0 <= row["low"] <= row["value"] <= row["high"] <= 1 and row["n"] >= 200 for row in rows
    )
