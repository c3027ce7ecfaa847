"""The reference must not move with the policy, whatever is trained, in any family."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from safemirage.data.llava import read_llava, to_llava
from safemirage.methods.forward import inference, supervised_logits
from safemirage.methods.method import Batch
from safemirage.methods.retain import ReferenceModel
from safemirage.methods.views import LayerViews
from safemirage.models.prompts import Prompter
from safemirage.training.samples.batches import tokenize
from tests.tiny import tiny_image
from tests.tiny_families import TINY_MEMBERS, TinyMember

HOOK = 1


def trained_whole(family: str) -> TinyMember:
    """Every tensor of it, the vision tower's and the model's own among them."""
    member = TINY_MEMBERS[family]()
    member.model.train().requires_grad_(True)
    return member


def batch_of(member: TinyMember, folder: Path) -> Batch:
    (folder / "red.png").write_bytes(tiny_image("red"))
    records = [to_llava("a", "red.png", [("what is it?", "a red cup")])]
    (folder / "set.json").write_text(json.dumps(records))
    prompter = Prompter(member.processor)
    samples = tokenize(read_llava(folder / "set.json", folder), prompter, max_length=512)
    return samples.batch([0], global_indices=[0], device=torch.device("cpu"))


def kl_reference(model: nn.Module, batch: Batch) -> Callable[[], Tensor]:
    reference = ReferenceModel(model)
    return lambda: reference.logits(batch)


def rmu_reference(model: nn.Module, batch: Batch) -> Callable[[], Tensor]:
    views = LayerViews(model, hook_layer=HOOK)
    return lambda: views.reference(views.lower(batch.inputs))


@pytest.mark.parametrize("make", [kl_reference, rmu_reference], ids=["kl", "rmu"])
@pytest.mark.parametrize("family", TINY_MEMBERS)
def test_reference_stays_when_every_trained_tensor_moves(
    family: str, make: Callable[[nn.Module, Batch], Callable[[], Tensor]], tmp_path: Path
) -> None:
    member = trained_whole(family)
    reference = make(member.model, batch_of(member, tmp_path))
    before = reference()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in member.model.parameters():
            parameter += torch.randn(parameter.shape, generator=generator)
    torch.testing.assert_close(reference(), before, rtol=0, atol=0)


@pytest.mark.parametrize("family", TINY_MEMBERS)
def test_reference_holds_each_trained_tensor_once(family: str) -> None:
    model = trained_whole(family).model
    copies = ReferenceModel(model)._frozen.values()
    held = {id(p): p.numel() for module in copies for p in module.parameters(recurse=False)}
    assert sum(held.values()) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("family", TINY_MEMBERS)
def test_reference_that_runs_before_the_policy_says_what_the_policy_says(
    family: str, tmp_path: Path
) -> None:
    member = trained_whole(family)
    batch = batch_of(member, tmp_path)
    untouched = copy.deepcopy(member.model)
    reference = kl_reference(member.model, batch)()
    for model in (untouched, member.model):
        with inference(model):
            logits = supervised_logits(model, batch)[0]
        torch.testing.assert_close(logits, reference, rtol=0, atol=0)


def test_reference_of_a_model_that_ran_before_says_what_it_said(tmp_path: Path) -> None:
    member = trained_whole("llava")
    batch = batch_of(member, tmp_path)
    with inference(member.model):
        before = supervised_logits(member.model, batch)[0]
    reference = kl_reference(member.model, batch)()
    torch.testing.assert_close(reference, before, rtol=0, atol=0)
