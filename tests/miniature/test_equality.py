"""On a trained model with answers of sense, batching changes no text in float32, and no verdict in bfloat16."""

from pathlib import Path

import pytest
import torch

from safemirage.config.world import SetsConfig, WorldConfig
from safemirage.data.llava import read_llava
from safemirage.evaluation.suites.folder import load_suite
from safemirage.miniature.model import build_initial_model
from safemirage.miniature.world import World, build_world
from safemirage.models.loading import load_for_inference
from safemirage.models.prompts import Prompter
from safemirage.storage import Storage
from safemirage.training.samples.batches import tokenize
from tests.benchmarks.bench_equality import agreements, answer

STEPS, BATCH = 150, 32


def train_base(world: World, storage: Storage, folder: Path) -> Path:
    """The miniature's base, in fewer steps: it describes what it sees, and ends its answers."""
    loaded = load_for_inference(build_initial_model(world, storage))
    records = read_llava(world.training_file("base"), world.image_folder)
    samples = tokenize(records, Prompter(loaded.processor), max_length=128)
    model = loaded.model.requires_grad_(True).train()
    model.model.vision_tower.requires_grad_(False)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        chosen = torch.randint(len(records), (BATCH,), generator=generator).tolist()
        batch = samples.batch(chosen, global_indices=range(BATCH))
        optimizer.zero_grad()
        model(**batch.inputs, labels=batch.labels_BT).loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    loaded.processor.save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_batched_answers_of_a_trained_model_are_those_given_one_at_a_time(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "storage")
    sets = SetsConfig(base=1000, unsafe=60, safe=60, selection=4, test=50)
    world = build_world(WorldConfig(sets=sets), storage)
    model = str(train_base(world, storage, tmp_path / "model"))
    samples = load_suite(world.suite("test"))
    assert len(samples) >= 300
    float32, half, formats = agreements(model, samples, tokens=32, rows=32).values()
    assert float32.text_share >= 0.99, str(float32)
    assert half.verdict_share >= 0.99, str(half)
    assert formats.verdict_share >= 0.99, str(formats)
    texts = {one.text for one in answer(model, samples[:100], "float32", 32, 32).together}
    assert len(texts) >= 10
