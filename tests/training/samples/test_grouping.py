"""Grouping by length: the same samples, less padding, one order whatever the number of workers."""

import numpy as np

from safemirage.training.samples.grouping import group_by_length
from safemirage.training.samples.order import Division, GlobalOrder

LENGTHS = tuple(np.random.default_rng(0).integers(10, 600, 203).tolist())


def order(seed: int = 0, *, grouped: bool = True, batch_size: int = 8) -> GlobalOrder:
    return GlobalOrder(
        num_samples=len(LENGTHS),
        batch_size=batch_size,
        seed=seed,
        stream="retain",
        lengths=LENGTHS if grouped else None,
    )


def padding(one: GlobalOrder, steps: int = 50) -> float:
    """The share of positions that would be padding."""
    total = kept = 0
    for step in range(steps):
        lengths = [LENGTHS[index] for index in one.step_indices(step)]
        total += max(lengths) * len(lengths)
        kept += sum(lengths)
    return 1 - kept / total


def test_grouping_rearranges_a_pass_and_loses_nothing() -> None:
    given = np.random.default_rng(1).permutation(203).tolist()
    for offset in (0, 5):
        result = group_by_length(
            given, LENGTHS, batch_size=8, offset=offset, generator=np.random.default_rng(0)
        )
        assert sorted(result) == list(range(203))
        assert set(result[:offset]) == set(given[:offset])


def test_grouped_passes_each_show_every_sample_once() -> None:
    one = order()
    drawn = [index for step in range(203) for index in one.step_indices(step)]
    for number in range(8):
        assert sorted(drawn[number * 203 : (number + 1) * 203]) == list(range(203))


def test_grouped_batches_hold_little_padding_in_every_pass() -> None:
    assert padding(order(), steps=100) < 0.1
    assert padding(order(grouped=False), steps=100) > 0.3


def test_grouped_batches_come_in_no_order_of_length() -> None:
    longest = [max(LENGTHS[index] for index in order().step_indices(step)) for step in range(25)]
    assert longest != sorted(longest)
    assert longest != sorted(longest, reverse=True)


def test_grouped_order_follows_the_seed_alone() -> None:
    first, same, other = ([order(seed).step_indices(s) for s in range(60)] for seed in (0, 0, 1))
    assert first == same != other


def test_grouped_step_is_the_same_for_every_number_of_workers() -> None:
    step = order().step_indices(3)
    for world, accumulation in ((1, 1), (2, 1), (1, 4), (4, 2)):
        division = Division(batch_size=8, world=world, accumulation=accumulation)
        parts = [part for rank in range(world) for part in division.share(step, rank)]
        assert [index for part in parts for index in part] == step


def test_grouping_keeps_texts_apart_from_images() -> None:
    """Image tokens count, so that nearly every batch is of one kind."""
    lengths = tuple(40 + place % 9 if place % 3 else 616 + place % 9 for place in range(240))
    one = GlobalOrder(num_samples=240, batch_size=8, seed=0, stream="retain", lengths=lengths)
    kinds = [{lengths[index] > 600 for index in one.step_indices(step)} for step in range(30)]
    assert sum(len(kind) == 2 for kind in kinds) <= 1
