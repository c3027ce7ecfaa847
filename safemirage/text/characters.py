"""Whether text is Unicode: JSON and command lines can carry halves of characters, which no file or tokenizer takes."""


def half_character(text: str) -> int | None:
    """The place of the first half of a character (half of a surrogate pair, `\\ud83d` in JSON), or None."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None


def mended(text: str) -> str:
    """The text with U+FFFD for each half of a character: for text that is shown, and no longer decides anything."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
