"""Markdown out of help texts and docstrings."""

import inspect
import re
from collections.abc import Iterable, Sequence


def paragraphs(text: str | None) -> str:
    """A docstring or a help text as paragraphs, each on one line. Blocks that are indented stay as they are."""
    blocks = inspect.cleandoc(text or "").split("\n\n")
    return "\n\n".join(
        block if block.startswith("    ") else escape(" ".join(block.split())) for block in blocks
    )


def first_sentence(text: str | None) -> str:
    """A docstring's first sentence. A colon or a point inside code ends none."""
    whole = " ".join(inspect.cleandoc(text or "").split("\n\n")[0].split())
    return escape(re.split(r"(?<=[.:?])\s(?=[A-Z`])", whole)[0])


def escape(text: str) -> str:
    """Text whose `<` and `*` stand for themselves; what is between backticks already does."""
    parts = re.split(r"(`[^`]*`)", text)
    plain = {"<": "&lt;", ">": "&gt;", "*": r"\*", "_": r"\_", "[": r"\[", "]": r"\]"}
    return "".join(
        part if part.startswith("`") else "".join(plain.get(letter, letter) for letter in part)
        for part in parts
    )


def code(text: object) -> str:
    return f"`{text}`" if str(text) else ""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; empty where it has no rows. A `|` inside a cell would end it, in code too."""
    lines = [[cell.replace("|", r"\|").replace("\n", " ") for cell in row] for row in rows]
    if not lines:
        return ""
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *lines))


def page(*blocks: str) -> str:
    return "\n\n".join(block for block in blocks if block) + "\n"
