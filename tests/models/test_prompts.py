from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image

from safemirage.models.families import LLAVA
from safemirage.models.prompts import IGNORED, Prompter, PromptError, image_size, read_image
from tests.tiny import IMAGE_TOKENS, tiny_image, tiny_processor

# The public LLaVA checkpoints come with a template of this shape: no system sentence, no end token.
PUBLIC_LIKE_TEMPLATE = (
    "{% for m in messages %}{{ m['role'].upper() + ': ' }}"
    "{% for p in m['content'] %}{% if p['type'] == 'image' %}{{ '<image>\\n' }}{% endif %}{% endfor %}"
    "{% for p in m['content'] %}{% if p['type'] == 'text' %}{{ p['text'] + ' ' }}{% endif %}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def prompter(template: str | None = None) -> Prompter:
    processor = tiny_processor()
    if template is not None:
        processor.chat_template = template
    return Prompter(processor)


def supervised_text(one: Prompter, turns: list[tuple[str, str]], *, image: bool) -> list[str]:
    """The runs of supervised tokens, decoded."""
    tokens = one.conversation(turns, image_size=(40, 36) if image else None)
    runs: list[list[int]] = [[]]
    for label in tokens.labels:
        if label != IGNORED:
            runs[-1].append(label)
        elif runs[-1]:
            runs.append([])
    tokenizer = tiny_processor().tokenizer
    return [tokenizer.decode(run) for run in runs if run]


@pytest.mark.parametrize("template", [None, LLAVA.chat_template, PUBLIC_LIKE_TEMPLATE])
def test_conversation_of_two_turns_supervises_answers_and_end_tokens_only(
    template: str | None,
) -> None:
    turns = [("what is it?", "a red car"), ("sure?", "yes, é")]
    spoken = supervised_text(prompter(template), turns, image=True)
    assert spoken == [" a red car</s>", " yes, é</s>"]


def test_conversation_with_an_image_holds_its_tokens_unsupervised() -> None:
    one = prompter()
    tokens = one.conversation([("q", "a")], image_size=(40, 36))
    places = [i for i, token in enumerate(tokens.ids) if token == one.image_token_id]
    assert len(places) == IMAGE_TOKENS
    assert {tokens.labels[place] for place in places} == {IGNORED}


@pytest.mark.parametrize("template", [None, LLAVA.chat_template, PUBLIC_LIKE_TEMPLATE])
def test_conversation_starts_with_the_tokens_of_the_prompt_that_is_asked_later(
    template: str | None,
) -> None:
    one = prompter(template)
    text = one.prompt("what is it?", has_image=True)
    asked = one.prompt_ids(text, image_size=(40, 36))
    trained = one.conversation([("what is it?", "a car")], image_size=(40, 36))
    assert list(trained.ids[: len(asked)]) == asked
    assert set(trained.labels[: len(asked)]) == {IGNORED}
    assert trained.labels[len(asked)] != IGNORED


def test_prompt_by_the_family_template_is_vicuna_v1() -> None:
    text = prompter(LLAVA.chat_template).prompt("What is this?", has_image=True)
    assert text == (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. USER: <image>\nWhat is this? ASSISTANT:"
    )


def test_prompt_with_a_system_text_and_a_prefill_puts_both_in() -> None:
    one = prompter()
    assert one.prompt("q", has_image=False, system="Be brief.", prefill="Sure, ") == (
        "Be brief. USER: q ASSISTANT: Sure,"
    )


def test_prompt_that_holds_the_image_token_is_refused() -> None:
    with pytest.raises(PromptError, match="<image>"):
        prompter().prompt("look <image> here", has_image=True)


def test_prompt_ids_write_the_start_token_once_even_if_the_template_does() -> None:
    one = prompter("<s>{% for m in messages %}{{ m['content'][-1]['text'] }}{% endfor %}")
    ids = one.prompt_ids(one.prompt("q", has_image=False))
    assert ids.count(1) == 1


def test_conversation_by_a_template_that_rewrites_earlier_turns_is_refused() -> None:
    one = prompter(
        "{{ messages | length }}{% for m in messages %}{{ m['content'][-1]['text'] }}{% endfor %}"
    )
    with pytest.raises(PromptError, match="turn by turn"):
        one.conversation([("q", "a")], image_size=None)


def test_pixels_of_other_colours_differ() -> None:
    one = prompter()
    red, blue = (one.pixels(read_image(tiny_image(c)))["pixel_values"] for c in ("red", "blue"))
    assert red.shape == (1, 3, 32, 32)
    assert not torch.equal(red, blue)


def test_read_image_with_transparency_gives_rgb() -> None:
    stream = BytesIO()
    Image.new("RGBA", (5, 4), (10, 20, 30, 0)).save(stream, format="PNG")
    image = read_image(stream.getvalue())
    assert (image.mode, image.getpixel((0, 0))) == ("RGB", (10, 20, 30))


def test_read_image_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(b"not an image")
    with pytest.raises(PromptError, match=r"12 bytes.*cannot be read"):
        read_image(path.read_bytes())
    with pytest.raises(PromptError, match=r"image\.png cannot be read"):
        image_size(path)
