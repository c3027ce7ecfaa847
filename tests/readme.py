"""The commands that README shows, read from README itself."""

import re
import shlex
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def lines(section: str = "On your own data and models") -> list[str]:
    """The lines of a section's first block, as they are written."""
    text = README.read_text(encoding="utf-8").partition(f"## {section}\n")[2]
    block = re.search(r"```\n(.*?)```", text, flags=re.DOTALL)
    assert block is not None, section
    return [line for line in block[1].splitlines() if line]


def commands() -> list[list[str]]:
    """The words of each of these lines, comments left out."""
    return [words for line in lines() if (words := shlex.split(line, comments=True))]
