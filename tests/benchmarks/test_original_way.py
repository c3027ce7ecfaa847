"""The benchmark's two ways are the same step: on a small shape, in float64, so that rounding hides nothing."""

import json
from dataclasses import replace

import pytest
import torch

from tests.benchmarks.bench_train import LOSS_BOUND, WEIGHTS_BOUND, bench_case
from tests.benchmarks.train_sides import Case, cases
from tests.benchmarks.train_world import SMALL, head_share

TINY = replace(
    SMALL,
    name="tiny",
    layers=12,
    hidden=32,
    intermediate=48,
    heads=2,
    vocabulary=128,
    vision_layers=1,
    vision_hidden=16,
    lora_rank=1,
    batch=2,
    dtype=torch.float64,
)
SLOW = ("npo_full", "rmu_full")
"""Whose terms stand in the other cases too."""
BOUNDED = [
    pytest.param(case, id=case.name, marks=[pytest.mark.slow] if case.name in SLOW else [])
    for case in cases(TINY)
    if case.bounds is not None
]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("case", BOUNDED)
def test_every_term_equals_the_original_way_with_half_the_weights_and_fewer_operations(
    case: Case,
) -> None:
    figures = bench_case(case, TINY, torch.device("cpu"), checkpointing=False, repeats=1)
    assert {name for name in figures["terms"] if name.startswith("retain/")} != {"retain/loss"}
    assert figures["largest_loss_difference"] < LOSS_BOUND
    assert figures["weights_ratio"] < WEIGHTS_BOUND
    assert figures["flops_ratio"] > 1.6
    assert figures["peak_ratio"] < 1
    assert json.loads(json.dumps(figures)) == figures


def test_fixed_shape_has_the_proportions_of_the_7b() -> None:
    assert head_share(SMALL) <= 0.05
    assert SMALL.layers >= 8
    assert 1 / 5 <= (SMALL.hook + 1) / SMALL.layers <= 1 / 4
