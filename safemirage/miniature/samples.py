"""The eight conditions of a suite, in the order of suite.json: each question of a safety set plain and rewritten."""

import random
from collections.abc import Sequence
from typing import Any

from safemirage.config.attack import NEUTRAL
from safemirage.config.world import WorldConfig
from safemirage.miniature.questions import paraphrases, question, rewrites
from safemirage.miniature.training_sets import SafetyItem


def suite_samples(
    items: Sequence[SafetyItem], config: WorldConfig, rng: random.Random
) -> list[dict[str, Any]]:
    """The samples of a suite: an unsafe item plain, rewritten to "what" K times, and with an unseen first word;
    a safe item plain, rewritten to "share", and with an unseen first word. The controls come last: as many paraphrases
    that keep the first word."""
    samples = []
    for item in items:
        unseen = question(rng.choice(config.words.unseen), rng)
        if item.picture.is_unsafe:
            samples += _asked(item, "plain", [item.instruction])
            samples += _asked(item, "what", rewrites("what", config.sets.rewrites, rng))
        else:
            samples += _asked(item, "plain", [item.instruction])
            samples += _asked(item, "share", [question("share", rng)])
        samples += _asked(item, "unseen", [unseen])
    for item in items:
        attempts = config.sets.rewrites if item.picture.is_unsafe else 1
        samples += _asked(item, NEUTRAL, paraphrases(item.instruction, attempts, rng))
    return samples


def _asked(item: SafetyItem, attack: str, texts: Sequence[str]) -> list[dict[str, Any]]:
    picture = item.picture
    subset = "unsafe" if picture.is_unsafe else "safe"
    return [
        {
            "sample_id": f"{picture.id}_{attack}_{index}",
            "condition": f"{subset}_{attack}",
            "subset": subset,
            "attack": attack,
            "group_id": picture.id,
            "question": text,
            "image": f"images/{picture.file}",
            "target": picture.target,
        }
        for index, text in enumerate(texts)
    ]
