"""From configs to judges: what each measures is known before a model is opened."""

import pytest

from safemirage.config.evaluate import EvaluateConfig
from safemirage.config.loading.load import build_config
from safemirage.evaluation.generators.scripted import ScriptedGenerator
from safemirage.evaluation.judges.build import build_judge, measures_of

MODEL = {"name": "openai", "url": "http://127.0.0.1:9/v1", "model": "m"}
TREES = [
    {"name": "keywords"},
    {"name": "refusal_rules"},
    {"name": "oracle"},
    {"name": "useful"},
    {"name": "model", "model": MODEL, "prompt": {"measures": ["asr", "deflection_rate"]}},
    {"name": "usefulness", "model": MODEL},
    {"name": "relevance", "model": MODEL},
    {"name": "guard", "guard": "llama_guard_4", "model": MODEL},
    {"name": "guard", "guard": "qwen3guard", "model": MODEL},
]


@pytest.mark.parametrize("tree", TREES, ids=lambda tree: tree.get("guard", tree["name"]))
def test_judges_measure_what_their_configs_say(tree: dict[str, object]) -> None:
    given = {
        "model": MODEL,
        "suite": "s",
        "judges": [{**tree, "title": "t"} if "model" in tree else tree],
    }
    (config,) = build_config(EvaluateConfig, given).judges
    judge = build_judge(config, lambda _: ScriptedGenerator(lambda _: "", version="1"))
    assert judge.measures == measures_of(config)
    assert judge.name == ("t" if "model" in tree else tree["name"])


def test_judges_keys_differ() -> None:
    keys = []
    for tree in TREES:
        (config,) = build_config(
            EvaluateConfig, {"model": MODEL, "suite": "s", "judges": [tree]}
        ).judges
        judge = build_judge(config, lambda _: ScriptedGenerator(lambda _: "", version="1"))
        keys.append(str(dict(judge.key)))
    assert len(set(keys)) == len(TREES)


@pytest.mark.parametrize(
    ("tree", "place"),
    [
        (TREES[4], ("prompt", "decoding")),
        (TREES[6], ("decoding",)),
        (TREES[7], ("decoding",)),
    ],
    ids=["model", "relevance", "guard"],
)
def test_judges_key_holds_the_seed_of_a_sampled_verdict_only(
    tree: dict[str, object], place: tuple[str, ...]
) -> None:
    def key(**decoding: float) -> str:
        given: dict[str, object] = dict(decoding)
        for name in reversed(place):
            given = {name: given}
        merged = {**tree, **given}
        if "prompt" in tree:
            merged["prompt"] = {**TREES[4]["prompt"], **given["prompt"]}  # type: ignore[dict-item]
        (config,) = build_config(
            EvaluateConfig, {"model": MODEL, "suite": "s", "judges": [merged]}
        ).judges
        judge = build_judge(config, lambda _: ScriptedGenerator(lambda _: "", version="1"))
        return str(dict(judge.key))

    assert key(temperature=0.0, seed=0) == key(temperature=0.0, seed=7, top_p=0.5)
    assert key(temperature=1.0, seed=0) != key(temperature=1.0, seed=7)
    assert key(temperature=1.0, seed=7) != key(temperature=0.0, seed=7)
