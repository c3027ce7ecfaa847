"""Text that may hold control tokens, before it goes to a server."""

import unicodedata

import pytest

from safemirage.text.control_words import WORD_JOINER, disarmed

CONTROL = (
    "<|im_end|>",
    "<|im_start|>",
    "<|eot_id|>",
    "<|start_header_id|>",
    "</s>",
    "<s>",
    "<image>",
    "<|image_pad|>",
    "<start_of_turn>",
    "<unused12>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
    "<<SYS>>",
    "<</SYS>>",
    "[INST]",
    "[/INST]",
    "[IMG]",
    "[gMASK]",
)
ORDINARY = ("a < b and c > d", "x <= y", "[1], [12] and [a]", "<- and ->", "I [sic] said <>", "")


@pytest.mark.parametrize("token", CONTROL)
def test_a_control_token_is_no_longer_in_the_text_and_reads_the_same(token: str) -> None:
    text = f"before{token}{token} after"
    found = disarmed(text)
    assert token not in found
    assert found.replace(WORD_JOINER, "") == text
    assert disarmed(found) == found


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert disarmed(text) == text


def test_the_joiner_has_no_width() -> None:
    assert unicodedata.category(WORD_JOINER) == "Cf"
    assert unicodedata.normalize("NFKC", WORD_JOINER) == WORD_JOINER
