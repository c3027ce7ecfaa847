"""The rewrites by rule, against labels that were given by hand; rewrite_labels.md is the guide to them."""

import asyncio
import hashlib
import json
import random
from collections import Counter
from pathlib import Path

import pytest

from safemirage.config.attack import AttackConfig
from safemirage.config.loading.load import load_config
from safemirage.evaluation.attacks.first_words import FORM, attack_suite
from safemirage.evaluation.types import Sample
from safemirage.store import open_store

LABELS = Path(__file__).with_name("rewrite_labels.json")
ATTACK = Path(__file__).parents[3] / "configs" / "attack" / "vlguard.yaml"


def drawn(samples: list[Sample]) -> list[Sample]:
    """Half of each hundred turn the question, half lead up to it."""
    rewrites: list[Sample] = []
    for word in ("what", "share", "neutral"):
        rng = random.Random(0)
        for form in ("transform", "carrier"):
            made = [one for one in samples if (one.attack, one.target.get(FORM)) == (word, form)]
            rewrites += rng.sample(made, 50)
    return rewrites


@pytest.mark.filterwarnings("ignore::safemirage.data.records.DataWarning")
def test_labelled_rewrites_keep_meaning_and_grammar(vlguard: Path, tmp_path: Path) -> None:
    config = load_config(
        AttackConfig, ATTACK, [f"vlguard.test={vlguard / 'test.json'}", "vlguard.images=null"]
    )
    with open_store(f"sqlite:///{tmp_path / 'store.db'}") as store:
        result = asyncio.run(attack_suite(config, store=store))
    unsafe, safe = {"transform": 420, "carrier": 906}, {"transform": 486, "carrier": 1188}
    forms = [one.forms for one in result.accounts]
    assert forms == [unsafe, safe, unsafe, safe], "what, share, and the control of each"
    labels = {one["sample_id"]: one for one in json.loads(LABELS.read_text())}
    rewrites = drawn(result.samples)
    assert len(labels) == len(rewrites) == 300
    for rewrite in rewrites:
        digest = hashlib.sha256(rewrite.question.encode()).hexdigest()[:16]
        label = labels.get(rewrite.sample_id, {})
        assert label.get("digest") == digest, (
            f"not labelled: {rewrite.sample_id}: {rewrite.question}"
        )
    for word in ("what", "share", "neutral"):
        of_word = [labels[one.sample_id] for one in rewrites if one.attack == word]
        found = Counter(one["meaning"] for one in of_word) + Counter(
            one["grammar"] for one in of_word
        )
        assert (
            found["same"] + found["changed"] == found["ok"] + found["fault"] == len(of_word) == 100
        )
        assert found["changed"] <= 5
        assert found["fault"] <= 2
