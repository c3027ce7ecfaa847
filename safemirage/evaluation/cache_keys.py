"""The sample store's keys: digests of everything that an answer, or a verdict, follows from. No names, only content."""

from collections.abc import Mapping
from typing import Any

from safemirage.config.generators import DecodingConfig
from safemirage.config.loading.identity import digest_of
from safemirage.config.loading.load import to_tree
from safemirage.evaluation.types import Request, Sample

EVALUATION_SCOPE = "evaluation"
INPUTS = "2"
"""The version of how inputs reach a model: raised when the same question and image do so otherwise than before,
whatever the engine."""


def scoped_key(key: Mapping[str, str], evaluation_id: str) -> dict[str, str]:
    """A generator's or judge's key, bound to one evaluation where what it serves cannot be told."""
    if key.get("scope") == EVALUATION_SCOPE:
        return {**key, "evaluation": evaluation_id}
    return dict(key)


def generation_key(generator: Mapping[str, str], request: Request, decoding: DecodingConfig) -> str:
    tree = {
        "inputs": INPUTS,
        "generator": dict(generator),
        "question": request.question,
        "image": request.image.digest if request.image else None,
        "system": request.system,
        "prefill": request.prefill,
        "decoding": _decoding_tree(request.decoded_by(decoding)),
    }
    # What most requests do not have is left out, so that their keys stay what they were.
    rare = {
        "answered": request.answered,
        "schema": request.schema,
        "choice": None if request.choice is None else [*request.choice.words, request.choice.after],
    }
    return digest_of(tree | {name: value for name, value in rare.items() if value is not None})


def verdict_key(judge: Mapping[str, str], sample: Sample, answer: str) -> str:
    return digest_of(
        {
            "judge": dict(judge),
            "question": sample.question,
            "image": sample.image.digest if sample.image else None,
            "subset": sample.subset,
            "target": dict(sample.target),
            "answer": answer,
        }
    )


def _decoding_tree(decoding: DecodingConfig) -> dict[str, Any]:
    """The part of a decoding that decides answers: greedy ones depend on neither seed nor top_p."""
    tree: dict[str, Any] = to_tree(decoding)
    if decoding.temperature == 0:
        return {"max_new_tokens": tree["max_new_tokens"], "temperature": 0.0}
    return tree
