"""The model judge over a real model: random weights say nothing that can be read, and that is no verdict."""

import asyncio
from pathlib import Path

import pytest

from safemirage.config.evaluate import DecodingConfig, JudgePromptConfig
from safemirage.evaluation.evaluate import EvaluationSpec, evaluate
from safemirage.evaluation.generators.scripted import ScriptedGenerator
from safemirage.evaluation.judges.model import ModelJudge
from safemirage.store import open_store
from tests.evaluation.samples import make_case, make_image
from tests.tiny import make_tiny_llava


@pytest.mark.timeout(120)
def test_model_judge_of_random_weights_scores_nothing_and_counts_it(tmp_path: Path) -> None:
    from safemirage.evaluation.generators.transformers import TransformersGenerator

    prompt = JudgePromptConfig(
        kind="word",
        labels={"bad": "comply", "good": "other"},
        decoding=DecodingConfig(max_new_tokens=4),
    )
    judging = TransformersGenerator.load(make_tiny_llava(tmp_path / "judge"))
    cases = [make_case(str(index), image=make_image()) for index in range(3)]
    spec = EvaluationSpec(id="e", model="m", decoding=DecodingConfig())
    with open_store(f"sqlite:///{tmp_path / 'store.db'}") as store:
        model = ScriptedGenerator(lambda request: request.question, version="1")
        judge = ModelJudge("guard", prompt, judging)
        done = asyncio.run(evaluate(spec, cases, model, [judge], store=store))
        samples = store.evaluations.samples("e")
    judging.close()
    assert done.rows is not None
    found = {(row["judge"], row["value"], row["n"], row["unscored"]) for row in done.rows}
    assert found == {("guard", None, 0, 3), ("collapse", 0.0, 3, 0)}
    for sample in samples:
        assert sample["verdicts"][0]["label"] == "unscored"
        assert sample["verdicts"][0]["reason"].startswith("no verdict")
