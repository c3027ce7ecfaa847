import asyncio
import json
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from safemirage.config.generators import DecodingConfig
from safemirage.data.llava import LlavaRecord, TurnImage
from safemirage.evaluation.generators import RequestRejected
from safemirage.evaluation.generators.asking import ask_each
from safemirage.evaluation.generators.transformers import TransformersGenerator
from safemirage.evaluation.types import Generation, ImageInput, Request
from safemirage.models.loading import load_for_inference
from safemirage.models.prompts import Prompter
from safemirage.training.samples.batches import tokenize
from tests.tiny import IMAGE_TOKENS, make_tiny_llava, tiny_image
from tests.tiny_families import make_tiny_member

COLOURS = ("red", "blue", "green", "white")
QUESTIONS = ("what is it?", "share the picture", "go on, tell me all that you can see in there")
REQUESTS = [
    Request(question=question, image=ImageInput(tiny_image(colour)))
    for question in QUESTIONS
    for colour in COLOURS
] + [Request(question=question) for question in QUESTIONS]
GREEDY = DecodingConfig(max_new_tokens=24)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llava(tmp_path_factory.mktemp("fresh") / "model")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained until it answers in words that follow the question, and ends its answers by itself."""
    folder = tmp_path_factory.mktemp("trained")
    make_tiny_llava(folder / "base")
    loaded = load_for_inference(folder / "base")
    records = []
    for index, colour in enumerate(COLOURS):
        path = folder / f"{colour}.png"
        path.write_bytes(tiny_image(colour))
        answers = (f"a {colour} box", f"here: {colour}", f"{colour} on grey " * (index + 1))
        for question, answer in zip(QUESTIONS, answers, strict=True):
            records.append(
                LlavaRecord(
                    f"{colour} {question}", (TurnImage(path),), ((question, answer.strip()),)
                )
            )
    samples = tokenize(records, Prompter(loaded.processor), max_length=300)
    batch = samples.batch(range(12), global_indices=range(12))
    model = loaded.model.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        model(**batch.inputs, labels=batch.labels_BT).loss.backward()
        optimizer.step()
    model.save_pretrained(folder / "model")
    loaded.processor.save_pretrained(folder / "model")
    return folder / "model"


def answer(
    generator: TransformersGenerator,
    requests: Sequence[Request],
    decoding: DecodingConfig = GREEDY,
) -> list[Generation]:
    return asyncio.run(generator.generate(requests, decoding))


def one_by_one(
    generator: TransformersGenerator, decoding: DecodingConfig = GREEDY
) -> list[Generation]:
    return [answer(generator, [request], decoding)[0] for request in REQUESTS]


@pytest.mark.parametrize("model", ["fresh", "trained"])
@pytest.mark.parametrize("batch_size", [4, 32])
def test_greedy_answers_in_a_batch_are_those_given_one_at_a_time(
    model: str, batch_size: int, request: pytest.FixtureRequest
) -> None:
    generator = TransformersGenerator.load(request.getfixturevalue(model), batch_size=batch_size)
    together = answer(generator, REQUESTS)
    assert together == one_by_one(generator)
    assert len({generation.text for generation in together}) >= 6


def test_trained_model_stops_by_itself_and_says_so(trained: Path) -> None:
    generator = TransformersGenerator.load(trained)
    asked = [Request(question=QUESTIONS[0], image=ImageInput(tiny_image("red")))]
    (whole,) = answer(generator, asked)
    assert (whole.text, whole.finish_reason) == ("a red box", "stop")
    # A byte is a token; the answer has a space before it and an end token after it.
    assert whole.completion_tokens == len(" a red box") + 1
    (cut,) = answer(generator, asked, DecodingConfig(max_new_tokens=4))
    assert (cut.text, cut.finish_reason, cut.completion_tokens) == ("a r", "length", 4)


def test_prompt_tokens_count_image_tokens_and_no_padding(fresh: Path) -> None:
    generator = TransformersGenerator.load(fresh)
    seen, text_only = answer(
        generator,
        [Request(question="q", image=ImageInput(tiny_image("red"))), Request(question="q")],
    )
    assert text_only.prompt_tokens == len("USER: q ASSISTANT:") + 1
    assert seen.prompt_tokens == text_only.prompt_tokens + IMAGE_TOKENS + len("\n")


def test_sampled_answers_follow_the_seed_and_not_the_batch(trained: Path) -> None:
    generator = TransformersGenerator.load(trained, batch_size=4)
    sampling = DecodingConfig(max_new_tokens=24, temperature=1.0, top_p=0.95, seed=1)
    together = answer(generator, REQUESTS, sampling)
    assert together == one_by_one(generator, sampling)
    other = DecodingConfig(max_new_tokens=24, temperature=1.0, top_p=0.95, seed=2)
    assert together != answer(generator, REQUESTS, other)


def test_rows_of_one_batch_follow_their_own_seeds(trained: Path) -> None:
    generator = TransformersGenerator.load(trained, batch_size=4)
    sampling = DecodingConfig(max_new_tokens=24, temperature=1.0, top_p=0.95, seed=1)
    seeded = [replace(request, seed=number) for number, request in enumerate(REQUESTS)]
    alone = [
        answer(generator, [request], replace(sampling, seed=number))[0]
        for number, request in enumerate(REQUESTS)
    ]
    assert answer(generator, seeded, sampling) == alone
    assert answer(generator, REQUESTS, sampling) != alone


def test_sampled_first_tokens_have_the_model_s_frequencies(fresh: Path) -> None:
    loaded = load_for_inference(fresh)
    generator = TransformersGenerator(loaded, batch_size=256)
    prompter = Prompter(loaded.processor)
    ids = prompter.prompt_ids(prompter.prompt("q", has_image=False))
    with torch.no_grad():
        logits = loaded.model(input_ids=torch.tensor([ids])).logits[0, -1]
    expected = (logits / 2.0).softmax(-1)
    top = int(expected.argmax())
    drawn = 0
    num_draws = 600
    for seed in range(num_draws):
        decoding = DecodingConfig(max_new_tokens=1, temperature=2.0, seed=seed)
        (one,) = answer(generator, [Request(question="q")], decoding)
        drawn += one.text == prompter.decode([top])
    rate = float(expected[top])
    assert abs(drawn / num_draws - rate) < 4 * (rate * (1 - rate) / num_draws) ** 0.5


def test_prefill_is_continued_and_not_repeated(trained: Path) -> None:
    generator = TransformersGenerator.load(trained)
    asked = Request(question=QUESTIONS[0], image=ImageInput(tiny_image("red")), prefill="a red")
    (one,) = answer(generator, [asked])
    assert one.text == "box"


def test_each_distinct_image_is_encoded_once_a_call(fresh: Path) -> None:
    loaded = load_for_inference(fresh)
    encoded: list[int] = []
    loaded.model.model.vision_tower.register_forward_hook(
        lambda module, inputs, kwargs, output: encoded.append(output.last_hidden_state.shape[0]),
        with_kwargs=True,
    )
    answer(TransformersGenerator(loaded, batch_size=2), REQUESTS)
    assert sum(encoded) == len(COLOURS)


def test_prompt_that_leaves_no_room_is_refused(fresh: Path) -> None:
    generator = TransformersGenerator.load(fresh)
    with pytest.raises(
        RequestRejected, match=r"max_new_tokens=600 do not fit the model's context of 512"
    ):
        answer(generator, REQUESTS[:1], DecodingConfig(max_new_tokens=600))


def test_image_that_cannot_be_read_is_refused(fresh: Path) -> None:
    generator = TransformersGenerator.load(fresh)
    with pytest.raises(RequestRejected, match="cannot be read"):
        answer(generator, [Request(question="q", image=ImageInput(b"no image"))])


def test_no_requests_give_no_answers(fresh: Path) -> None:
    assert answer(TransformersGenerator.load(fresh), []) == []


def test_generate_leaves_the_event_loop_free(fresh: Path) -> None:
    generator = TransformersGenerator.load(fresh)
    begun, released = threading.Event(), threading.Event()

    def hold(*_: object) -> None:
        begun.set()
        assert released.wait(timeout=30)

    generator._model.get_output_embeddings().register_forward_pre_hook(hold)

    async def ask() -> list[Generation]:
        task = asyncio.create_task(generator.generate(REQUESTS[:1], GREEDY))
        while not begun.is_set():
            await asyncio.sleep(0.01)
        # The model waits for this coroutine: it can run only if the loop is free.
        released.set()
        return await task

    assert len(asyncio.run(ask())) == 1


def test_key_changes_with_the_weights_and_the_template(
    fresh: Path, trained: Path, tmp_path: Path
) -> None:
    key = TransformersGenerator.load(fresh).key
    assert key == TransformersGenerator.load(fresh).key
    assert key["weights"] != TransformersGenerator.load(trained).key["weights"]
    other = make_tiny_llava(tmp_path / "other")
    (other / "chat_template.jinja").write_text((other / "chat_template.jinja").read_text() + " ")
    changed = TransformersGenerator.load(other).key
    assert changed["processor"] != key["processor"]
    assert changed["weights"] == key["weights"]


def test_key_changes_with_the_tokens_that_end_an_answer(fresh: Path, tmp_path: Path) -> None:
    key = TransformersGenerator.load(fresh).key
    other = make_tiny_llava(tmp_path / "other")
    settings = json.loads((other / "generation_config.json").read_text())
    settings["eos_token_id"] = [2, 77]
    (other / "generation_config.json").write_text(json.dumps(settings))
    changed = TransformersGenerator.load(other).key
    assert changed["stop_tokens"] == "2 77"
    assert changed["processor"] != key["processor"]
    assert changed["weights"] == key["weights"]


def test_an_image_that_the_family_cannot_take_costs_its_own_question_alone(tmp_path: Path) -> None:
    generator = TransformersGenerator.load(make_tiny_member(tmp_path / "model", "qwen2_vl"))
    wide = Request(question="what?", image=ImageInput(tiny_image("red", (4200, 20))))
    fine = REQUESTS[:2]
    replies = asyncio.run(
        ask_each(generator, [fine[0], wide, fine[1]], DecodingConfig(max_new_tokens=4))
    )
    generator.close()
    assert isinstance(replies[1], RequestRejected)
    assert "4200 x 20 cannot be prepared" in str(replies[1])
    assert isinstance(replies[0], Generation)
    assert isinstance(replies[2], Generation)
