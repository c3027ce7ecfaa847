import numpy as np
import pytest

from safemirage.config.loading.load import ConfigError
from safemirage.training.samples.order import Division, GlobalOrder, draw_subset, group_by_length


def order(**changes: object) -> GlobalOrder:
    options: dict[str, object] = {"num_samples": 7, "batch_size": 4, "seed": 3, "stream": "retain"}
    return GlobalOrder(**(options | changes))  # type: ignore[arg-type]


def test_order_each_pass_holds_every_sample_once_and_passes_differ() -> None:
    drawn = [index for step in range(7) for index in order().step_indices(step)]
    passes = [drawn[start : start + 7] for start in range(0, 28, 7)]
    assert all(sorted(one) == list(range(7)) for one in passes)
    assert len({tuple(one) for one in passes}) == 4


def test_order_asked_for_a_late_step_first_gives_the_same_as_in_turn() -> None:
    late = order().step_indices(50)
    in_turn = [order().step_indices(step) for step in range(51)]
    assert in_turn[50] == late


def test_order_other_seed_or_stream_gives_another_order() -> None:
    whole = order(num_samples=50, batch_size=50)
    assert whole.step_indices(0) != order(num_samples=50, batch_size=50, seed=4).step_indices(0)
    forget = order(num_samples=50, batch_size=50, stream="forget")
    assert whole.step_indices(0) != forget.step_indices(0)


def test_order_batch_larger_than_the_set_runs_on_into_the_next_pass() -> None:
    drawn = order(num_samples=2, batch_size=6).step_indices(0)
    assert sorted(drawn) == [0, 0, 0, 1, 1, 1]


def test_order_empty_set_is_refused() -> None:
    with pytest.raises(ValueError, match="retain: no samples"):
        order(num_samples=0)


@pytest.mark.parametrize(("world", "accumulation"), [(1, 1), (2, 1), (1, 4), (2, 2), (4, 3)])
def test_division_shares_of_all_workers_are_the_global_batch_in_order(
    world: int, accumulation: int
) -> None:
    indices = list(range(100, 124))
    division = Division(batch_size=24, world=world, accumulation=accumulation)
    shares = [division.share(indices, rank) for rank in range(world)]
    assert [index for share in shares for micro in share for index in micro] == indices
    assert {len(share) for share in shares} == {accumulation}
    assert {len(micro) for share in shares for micro in share} == {24 // world // accumulation}


def test_division_batch_that_does_not_divide_names_the_three_keys() -> None:
    with pytest.raises(
        ConfigError, match=r"optim.batch_size: 10 .*workers.count=2.*accumulation=2"
    ):
        Division(batch_size=10, world=2, accumulation=2)


def test_division_group_that_would_be_split_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"method.group_size: 4 .*micro-batch of 6"):
        Division(batch_size=12, world=2, accumulation=1, group_size=4)


def test_draw_subset_is_seeded_and_distinct() -> None:
    drawn = draw_subset(100, 30, seed=1)
    assert drawn == draw_subset(100, 30, seed=1) == sorted(set(drawn))
    assert len(drawn) == 30
    assert drawn != draw_subset(100, 30, seed=2)


def test_draw_subset_without_a_limit_takes_all() -> None:
    assert draw_subset(5, None, seed=1) == [0, 1, 2, 3, 4]


def test_draw_subset_of_more_than_there_are_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.retain_limit: 2000, but the set has 977 records"):
        draw_subset(977, 2000, seed=0)


LENGTHS = tuple(np.random.default_rng(0).integers(10, 600, 203).tolist())


def lengthwise(seed: int = 0, *, grouped: bool = True, batch_size: int = 8) -> GlobalOrder:
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
    one = lengthwise()
    drawn = [index for step in range(203) for index in one.step_indices(step)]
    for number in range(8):
        assert sorted(drawn[number * 203 : (number + 1) * 203]) == list(range(203))


def test_grouped_batches_hold_little_padding_in_every_pass() -> None:
    assert padding(lengthwise(), steps=100) < 0.1
    assert padding(lengthwise(grouped=False), steps=100) > 0.3


def test_grouped_batches_come_in_no_order_of_length() -> None:
    longest = [
        max(LENGTHS[index] for index in lengthwise().step_indices(step)) for step in range(25)
    ]
    assert longest != sorted(longest)
    assert longest != sorted(longest, reverse=True)


def test_grouped_order_follows_the_seed_alone() -> None:
    first, same, other = (
        [lengthwise(seed).step_indices(s) for s in range(60)] for seed in (0, 0, 1)
    )
    assert first == same != other


def test_grouped_step_is_the_same_for_every_number_of_workers() -> None:
    step = lengthwise().step_indices(3)
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
