"""Text that a server might read as control tokens, written so that it reads the same and is none.

Servers tokenise the rendered chat as one text, so `<|im_end|>` in a question or a judged answer ends its turn there.
Which control tokens a server's tokenizer has cannot be asked; they are written in angle brackets, or, in capitals, in
square ones.
"""

import re

WORD_JOINER = "\u2060"
"""A character without width or meaning: Unicode has it to keep two others on one line."""
_OPENING = re.compile(
    rf"<(?!{WORD_JOINER})(?=[^<>\s]{{1,64}}>)"  # <|im_end|>, </s>, <image>, <start_of_turn>, the inner half of <<SYS>>
    r"|\[(?=/?[a-z]?[A-Z_][A-Z_0-9]{1,40}\])"  # [INST], [/INST], [IMG], [gMASK]
)


def disarmed(text: str) -> str:
    """The text with a word joiner behind the opening bracket of whatever may be a control token."""
    return _OPENING.sub(lambda found: found[0] + WORD_JOINER, text)
