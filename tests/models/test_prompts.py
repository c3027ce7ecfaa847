import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import LlamaTokenizer, LlavaProcessor

from safemirage.config.world import WorldConfig
from safemirage.miniature.model import build_processor
from safemirage.models.families import LLAVA
from safemirage.models.images import read_image
from safemirage.models.prompts import IGNORED, Prompter, PromptError, Tokens
from tests.tiny import IMAGE_TOKENS, tiny_image, tiny_processor
from tests.tiny_families import TINY_MEMBERS

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
    tokens = one.conversation(turns, images=[(0, (40, 36))] if image else [])
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
    tokens = one.conversation([("q", "a")], images=[(0, (40, 36))])
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
    trained = one.conversation([("what is it?", "a car")], images=[(0, (40, 36))])
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


def mistral_processor(*, legacy: bool) -> LlavaProcessor:
    """One whose tokenizer is of Llama's kind: a byte-pair model of SentencePiece that joins across spaces."""
    package = pytest.importorskip("mistral_common")
    model = Path(package.__file__).parent / "data" / "tokenizer.model.v1"
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(model, Path(folder) / "tokenizer.model")
        settings = {"tokenizer_class": "LlamaTokenizer", "legacy": legacy}
        (Path(folder) / "tokenizer_config.json").write_text(json.dumps(settings))
        tokenizer = LlamaTokenizer.from_pretrained(folder, extra_special_tokens=["<image>"])
    return LlavaProcessor(
        tiny_processor().image_processor,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA.chat_template,
    )


PROCESSORS: dict[str, Callable[[], Any]] = {
    **{name: lambda name=name: TINY_MEMBERS[name]().processor for name in TINY_MEMBERS},
    "miniature": lambda: build_processor(WorldConfig()),
    "sentencepiece": lambda: mistral_processor(legacy=False),
    "sentencepiece legacy": lambda: mistral_processor(legacy=True),
}
ORDINARY = (
    "What is it?",
    "  spaces   around \n and within\t",
    "naïve café, 猫, 🙂, a < b > c, <b>bold</b>",
    "x\ue000y\U000f0000z",
)


def controls(processor: Any) -> list[str]:
    """Every control token by its name."""
    added = processor.tokenizer.backend_tokenizer.get_added_tokens_decoder().values()
    return [token.content for token in added if token.special]


@pytest.mark.parametrize("name", PROCESSORS)
def test_ids_of_ordinary_text_are_the_tokenizers_own(name: str) -> None:
    processor = PROCESSORS[name]()
    one = Prompter(processor)
    for text in ORDINARY:
        prompt = one.prompt(text, has_image=True, system=text, prefill=text)
        bos = processor.tokenizer.bos_token
        literal = prompt.replace("\U000f00000\U000f0000", "\U000f0000")  # the mark of the mark
        expected = processor.tokenizer(
            literal, add_special_tokens=not (bos and literal.startswith(bos))
        )
        assert one.prompt_ids(prompt) == expected["input_ids"]


@pytest.mark.parametrize("name", PROCESSORS)
def test_control_tokens_in_texts_are_text(name: str) -> None:
    processor = PROCESSORS[name]()
    one = Prompter(processor)
    hostile = " ".join(controls(processor)) + "".join(controls(processor)) + " end"
    by_name = processor.tokenizer.convert_tokens_to_ids(controls(processor))
    control_ids = set(by_name) - {processor.tokenizer.unk_token_id}

    def asked(text: str) -> list[int]:
        prompt = one.prompt(text, has_image=True, system=text, prefill=text)
        return one.prompt_ids(prompt, image_size=(40, 36))

    def trained(text: str) -> Tokens:
        turns = [(text, f"it is {text}"), (text, f"it is {text}")]
        return one.conversation(turns, images=[(0, (40, 36)), (1, (40, 36))])

    def controls_of(ids: Sequence[int]) -> list[int]:
        return [token for token in ids if token in control_ids]

    assert controls_of(asked(hostile)) == controls_of(asked("thing"))
    assert controls_of(trained(hostile).ids) == controls_of(trained("thing").ids)
    assert controls_of(trained(hostile).labels) == controls_of(trained("thing").labels)
    if name != "miniature":  # to which they are unknown words
        whole = processor.tokenizer.decode(asked(hostile)).replace(" ", "")
        assert whole.count(hostile.replace(" ", "")) == 3


def test_a_mark_in_a_text_is_no_control_token() -> None:
    """Whoever knows how control tokens are marked gets none by writing the mark."""
    one = prompter()
    marked = one.prompt("</s>", has_image=False)
    typed = one.prompt(marked, has_image=False)
    assert one.prompt_ids(typed).count(one.eos_token_id) == 0
    assert marked in tiny_processor().tokenizer.decode(one.prompt_ids(typed))


def test_an_image_stands_in_front_of_its_own_turn() -> None:
    one = prompter()
    tokens = one.conversation([("hello", "hi"), ("and this?", "a cup")], images=[(1, (40, 36))])
    first = tokens.ids.index(one.image_token_id)
    tokenizer = tiny_processor().tokenizer
    assert tokenizer.decode(tokens.ids[:first]) == "<s>USER: hello ASSISTANT: hi</s>USER: "
    assert tokens.ids.count(one.image_token_id) == IMAGE_TOKENS


def test_a_template_that_shows_no_image_is_refused() -> None:
    one = prompter("{% for m in messages %}{{ m['content'][-1]['text'] }}{% endfor %}")
    with pytest.raises(PromptError, match="0 times for 1 image"):
        one.prompt_ids(one.prompt("q", has_image=True), image_size=(40, 36))


def test_text_with_half_a_character_is_refused() -> None:
    with pytest.raises(PromptError, match="half of a character at place 5"):
        prompter().prompt("nice \ud83d cup", has_image=False)
    with pytest.raises(PromptError, match="half of a character"):
        prompter().conversation([("q", "\udc4d")])


@pytest.mark.parametrize("family", TINY_MEMBERS)
def test_a_strip_that_would_become_gigabytes_is_refused(family: str) -> None:
    one = Prompter(TINY_MEMBERS[family]().processor)
    with pytest.raises(PromptError, match="1 x 60000 cannot be prepared: it is longer than 1000"):
        one.num_image_tokens((1, 60_000))


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl"])
def test_an_image_too_wide_for_the_family_is_refused_by_its_size(family: str) -> None:
    one = Prompter(TINY_MEMBERS[family]().processor)
    with pytest.raises(PromptError, match=r"4200 x 20 cannot be prepared: .*aspect ratio"):
        one.num_image_tokens((4200, 20))
    with pytest.raises(PromptError, match="4200 x 20 cannot be prepared"):
        one.pixels(Image.new("RGB", (4200, 20)))


def test_prompt_ids_write_the_start_token_once_even_if_the_template_does() -> None:
    one = prompter("<s>{% for m in messages %}{{ m['content'][-1]['text'] }}{% endfor %}")
    ids = one.prompt_ids(one.prompt("q", has_image=False))
    assert ids.count(1) == 1


def test_conversation_by_a_template_that_rewrites_earlier_turns_is_refused() -> None:
    one = prompter(
        "{{ messages | length }}{% for m in messages %}{{ m['content'][-1]['text'] }}{% endfor %}"
    )
    with pytest.raises(PromptError, match="turn by turn"):
        one.conversation([("q", "a")])


def test_pixels_of_other_colours_differ() -> None:
    one = prompter()
    red, blue = (one.pixels(read_image(tiny_image(c)))["pixel_values"] for c in ("red", "blue"))
    assert red.shape == (1, 3, 32, 32)
    assert not torch.equal(red, blue)
