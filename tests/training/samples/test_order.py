import pytest

from safemirage.config.loading.load import ConfigError
from safemirage.training.samples.order import Division, GlobalOrder, draw_subset


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
