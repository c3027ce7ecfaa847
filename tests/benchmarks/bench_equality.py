"""Do answers depend on what else is in the batch, and on the number format? Counted on a trained checkpoint.

    python -m tests.benchmarks.bench_equality EXPORT SUITE [--tokens 32] [--rows 32]

In float32 batching changes nothing but the last bits of sums. In half precision the two greatest logits are often equal,
and the order of a sum decides; so texts differ, and what counts is whether verdicts do. Texts are compared, and the
verdicts of the keywords and of the oracle. The last line is one JSON object.
"""

import argparse
import asyncio
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from safemirage.config.generators import DecodingConfig
from safemirage.evaluation.generators import Generator
from safemirage.evaluation.generators.transformers import TransformersGenerator
from safemirage.evaluation.judges import Judge, Judged
from safemirage.evaluation.judges.oracle import OracleJudge
from safemirage.evaluation.judges.rules import KeywordsJudge
from safemirage.evaluation.suites.folder import load_suite
from safemirage.evaluation.types import Generation, Request, Sample
from safemirage.models.loading import DtypeName


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Two ways of answering the same questions, compared answer by answer."""

    n: int
    same_texts: int
    same_verdicts: int
    """Answers that every judge gives the same label."""

    @property
    def text_share(self) -> float:
        return self.same_texts / self.n

    @property
    def verdict_share(self) -> float:
        return self.same_verdicts / self.n

    def __str__(self) -> str:
        return (
            f"{self.same_texts}/{self.n} texts equal ({self.text_share:.1%}), {1 - self.text_share:.1%} differ; "
            f"verdicts agree on {self.same_verdicts}/{self.n} ({self.verdict_share:.1%})"
        )


async def answer_one_by_one(
    generator: Generator, requests: Sequence[Request], decoding: DecodingConfig
) -> list[Generation]:
    """Each request in a call of its own."""
    return [(await generator.generate([request], decoding))[0] for request in requests]


async def compare_answers(
    samples: Sequence[Sample],
    first: Sequence[Generation],
    second: Sequence[Generation],
    judges: Sequence[Judge],
) -> Agreement:
    """How often two lists of answers to `cases` are the same text, and are judged alike.

    Raises:
        ValueError: nothing to compare, or lists of different lengths.
    """
    if not samples or not len(samples) == len(first) == len(second):
        raise ValueError(
            f"answers: {len(first)} and {len(second)} to {len(samples)} conditions; give one of each, and at least one"
        )
    labels = [
        [
            [verdict.label for verdict in await judge.judge(_judged(samples, answers))]
            for judge in judges
        ]
        for answers in (first, second)
    ]
    alike = [all(a[i] == b[i] for a, b in zip(*labels, strict=True)) for i in range(len(samples))]
    same = [a.text == b.text for a, b in zip(first, second, strict=True)]
    return Agreement(n=len(samples), same_texts=sum(same), same_verdicts=sum(alike))


def _judged(samples: Sequence[Sample], answers: Sequence[Generation]) -> list[Judged]:
    return [
        Judged(sample=condition, answer=answer.text)
        for condition, answer in zip(samples, answers, strict=True)
    ]


@dataclass(frozen=True, kw_only=True)
class Answered:
    """The same questions, asked in both ways in one number format."""

    products: str
    together: list[Generation]
    one_by_one: list[Generation]


def answer(
    path: str, samples: Sequence[Sample], dtype: DtypeName, tokens: int, rows: int
) -> Answered:
    generator = TransformersGenerator.load(path, dtype=dtype, batch_size=rows)
    requests = [Request(question=sample.question, image=sample.image) for sample in samples]
    decoding = DecodingConfig(max_new_tokens=tokens)

    async def ask() -> Answered:
        return Answered(
            products=generator.key["products"],
            together=await generator.generate(requests, decoding),
            one_by_one=await answer_one_by_one(generator, requests, decoding),
        )

    try:
        return asyncio.run(ask())
    finally:
        generator.close()


def agreements(
    path: str, samples: Sequence[Sample], tokens: int, rows: int
) -> dict[str, Agreement]:
    """By what is compared: batched against one at a time in each format, and one format against the other."""
    full = answer(path, samples, "float32", tokens, rows)
    half = answer(path, samples, "bfloat16", tokens, rows)
    judges = [KeywordsJudge(), OracleJudge()]

    def compared(first: list[Generation], second: list[Generation]) -> Agreement:
        return asyncio.run(compare_answers(samples, first, second, judges))

    name = f"bfloat16 (products {half.products})"
    return {
        "float32: batched, one at a time": compared(full.together, full.one_by_one),
        f"{name}: batched, one at a time": compared(half.together, half.one_by_one),
        f"{name} and float32, one at a time": compared(half.one_by_one, full.one_by_one),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("export")
    parser.add_argument("suite")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rows", type=int, default=32)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    found = agreements(options.export, load_suite(options.suite), options.tokens, options.rows)
    figures: dict[str, Any] = {}
    for name, agreement in found.items():
        print(f"{name}: {agreement}")
        figures[name] = {
            "n": agreement.n,
            "texts": agreement.text_share,
            "verdicts": agreement.verdict_share,
        }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
