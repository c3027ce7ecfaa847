import math

import pytest
import torch

from safemirage.methods.losses import (
    activation_share,
    control_vector,
    cross_entropy_share,
    npo_share,
    sequence_logps,
    token_mean_log_ratios,
)


def test_sequence_logps_two_tokens_sums_their_log_softmax() -> None:
    # p(token 0) = 3/4 at the first position, 1/4 at the second; the third is not supervised.
    logits = torch.tensor([[[math.log(3.0), 0.0], [0.0, math.log(3.0)], [5.0, -5.0]]])
    targets = torch.tensor([[0, 0, -100]])
    expected = math.log(3 / 4) + math.log(1 / 4)
    torch.testing.assert_close(sequence_logps(logits, targets), torch.tensor([expected]))


def test_cross_entropy_share_of_two_workers_adds_up_to_the_token_mean() -> None:
    first, second = torch.tensor([-2.0, -4.0]), torch.tensor([-1.0])
    total = cross_entropy_share(first, global_tokens=7) + cross_entropy_share(
        second, global_tokens=7
    )
    assert total.item() == pytest.approx(1.0)


def test_npo_share_two_groups_matches_hand_calculation() -> None:
    # softplus(0.5 * 2) = ln(1 + e), softplus(0.5 * 0) = ln 2; times 2 / 0.5, over two groups.
    expected = 4.0 * (math.log(1 + math.e) + math.log(2.0)) / 2
    share = npo_share(torch.tensor([2.0, 0.0]), beta=0.5, global_groups=2)
    assert share.item() == pytest.approx(expected, rel=1e-6)


def test_npo_share_gradient_at_the_reference_is_that_of_gradient_ascent() -> None:
    ratios = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    npo_share(ratios, beta=0.7, global_groups=4).backward()
    torch.testing.assert_close(ratios.grad, torch.full((4,), 0.25, dtype=torch.float64))


def test_npo_share_small_beta_gradient_tends_to_gradient_ascent() -> None:
    ratios = torch.tensor([-3.0, 2.0], dtype=torch.float64, requires_grad=True)
    npo_share(ratios, beta=1e-9, global_groups=2).backward()
    torch.testing.assert_close(ratios.grad, torch.full((2,), 0.5, dtype=torch.float64))


def test_npo_share_gradient_vanishes_once_the_answer_is_unlearned() -> None:
    ratios = torch.tensor([-80.0], dtype=torch.float64, requires_grad=True)
    npo_share(ratios, beta=0.1, global_groups=1).backward()
    assert ratios.grad is not None
    # 2 sigmoid(-8): the official setting has let go of an 80-token answer that fell by one nat a token.
    assert ratios.grad.item() == pytest.approx(2 / (1 + math.exp(8.0)))


def test_npo_share_float64_passes_gradcheck() -> None:
    ratios = torch.tensor([-1.5, 0.3, 4.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda r: npo_share(r, beta=0.9, global_groups=3), (ratios,))


def test_token_mean_log_ratios_weighs_tokens_not_samples() -> None:
    ratios = token_mean_log_ratios(
        torch.tensor([4.0, 2.0, -6.0, 1.0]), torch.tensor([1, 5, 2, 1]), group_size=2
    )
    torch.testing.assert_close(ratios, torch.tensor([1.0, -5 / 3]))


def test_token_mean_log_ratios_split_group_is_refused() -> None:
    with pytest.raises(ValueError, match=r"method\.group_size"):
        token_mean_log_ratios(torch.zeros(3), torch.ones(3), group_size=2)


def test_activation_share_counts_masked_positions_per_sample() -> None:
    hidden = torch.tensor([[[1.0, 1.0], [9.0, 9.0]], [[2.0, 0.0], [0.0, 2.0]]])
    mask = torch.tensor([[True, False], [True, True]])
    # Sample 1: mean(1, 1) = 1. Sample 2: both positions mean(4, 0) = 2. Mean over samples: 1.5.
    share = activation_share(hidden, torch.zeros(2), mask, global_samples=2)
    assert share.item() == pytest.approx(1.5)


def test_activation_share_one_sample_all_positions_equals_mse() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, 5, 8, generator=generator)
    target = torch.randn(8, generator=generator)
    share = activation_share(hidden, target, torch.ones(1, 5), global_samples=1)
    expected = torch.nn.functional.mse_loss(hidden, target.expand_as(hidden))
    torch.testing.assert_close(share, expected)


def test_activation_share_float64_passes_gradcheck() -> None:
    hidden = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    target = torch.randn(4, dtype=torch.float64)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert torch.autograd.gradcheck(
        lambda h: activation_share(h, target, mask, global_samples=2), (hidden,)
    )


def test_control_vector_has_the_length_of_the_coefficient_and_no_negative_entry() -> None:
    vector = control_vector(64, coefficient=6.5, seed=3)
    assert vector.norm().item() == pytest.approx(6.5, rel=1e-6)
    assert (vector >= 0).all()


def test_control_vector_depends_on_its_seed_alone() -> None:
    torch.manual_seed(1)
    first = control_vector(64, coefficient=1.0, seed=3)
    torch.manual_seed(2)
    torch.testing.assert_close(first, control_vector(64, coefficient=1.0, seed=3), rtol=0, atol=0)
    assert not torch.equal(first, control_vector(64, coefficient=1.0, seed=4))
