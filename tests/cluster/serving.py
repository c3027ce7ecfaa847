"""What the tests of the service run against: exports of random weights, a small suite, clients, replicas."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai

from ray_jobs.cluster.head import ClusterAddress
from safemirage.config.generators import DecodingConfig
from safemirage.config.judges import ExportConfig, JudgePromptConfig, ModelJudgeConfig
from safemirage.config.serve import (
    CheckpointsConfig,
    EvaluationsConfig,
    LimitsConfig,
    ServeConfig,
)
from safemirage.evaluation.run.client import EvaluationClient
from safemirage.evaluation.suites import writer
from safemirage.evaluation.types import ImageInput, Sample
from safemirage.models.export import ExportRecord, write_export
from safemirage.models.families import family_of
from safemirage.storage import Storage
from tests.tiny import build_tiny_llava, tiny_image

TOKEN = "a-token-of-the-cluster-tests"
MODELS = ("tiny-000000000000", "tiny-111111111111")
JUDGES = ["keywords", "oracle", "useful"]
COLOURS = ("red", "green", "blue")
CONFIG = ServeConfig(
    limits=LimitsConfig(header_timeout_s=3, body_timeout_s=5),
    checkpoints=CheckpointsConfig(models=1, batch=16),
    evaluations=EvaluationsConfig(batch=4, takeover_s=3),
    judges=(
        ModelJudgeConfig(
            title="small",
            model=ExportConfig(id=MODELS[1]),
            prompt=JudgePromptConfig(kind="word", decoding=DecodingConfig(max_new_tokens=4)),
        ),
    ),
)


@dataclass(frozen=True)
class Service:
    url: str
    storage: Storage
    cluster: ClusterAddress

    def http(self) -> httpx.Client:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=120)

    def openai(self, token: str = TOKEN) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=token, max_retries=0)

    def evaluations(self) -> EvaluationClient:
        return EvaluationClient(self.url, TOKEN)


def write_tiny_export(storage: Storage, name: str, seed: int, *, num_layers: int = 2) -> None:
    tiny = build_tiny_llava(seed, num_layers=num_layers)
    record = ExportRecord(
        run_id=name,
        identity="0" * 64,
        method="sft",
        base=None,
        config={},
        metrics={},
        git_commit=None,
    )
    write_export(
        storage.exports / name,
        model=tiny.model,
        processor=tiny.processor,
        state_dict=None,
        family=family_of(tiny.model.config),
        record=record,
    )


def write_suite(storage: Storage) -> None:
    images = {colour: ImageInput(tiny_image(colour)) for colour in COLOURS}
    samples = [
        Sample(**sample_tree(number), image=images[COLOURS[number % 3]]) for number in range(12)
    ]
    writer.write_suite(storage.suites / "tiny", "tiny", samples)


def sample_tree(number: int) -> dict[str, Any]:
    subset = "unsafe" if number % 2 else "safe"
    return {
        "sample_id": f"s{number}",
        "condition": f"{subset}_plain",
        "subset": subset,
        "attack": "plain",
        "group_id": f"q{number}",
        "question": f"describe number {number}",
        "target": {
            "kind": "cube",
            "colour": COLOURS[number % 3],
            "unsafe": "true" if subset == "unsafe" else "false",
        },
    }


def dashboard(service: Service, path: str, **parameters: Any) -> Any:
    token = Path(service.cluster.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
    response = httpx.get(
        f"{service.cluster.dashboard}{path}",
        params=parameters,
        headers={"Authorization": f"Bearer {token}"},
        timeout=30,
    )
    response.raise_for_status()
    return response.json()


def replica_pid(service: Service, deployment: str) -> int:
    details = dashboard(service, "/api/serve/applications/")
    [replica] = details["applications"]["safemirage"]["deployments"][deployment]["replicas"]
    pid: int = replica["pid"]
    return pid
