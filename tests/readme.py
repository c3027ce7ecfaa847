"""The code blocks of README and of the pages of docs, read from the pages themselves, and run as they are written.

A block with commands (`sh`) or Python is run by tests/test_guides.py, unless a comment before it, or one below the page's
title for all its blocks, says otherwise:

    <!-- run in: tests/cluster/test_guides.py -->   another test runs it
    <!-- not run: needs a GPU -->                   none does, and why
    <!-- exit: 1 -->                                its last command may end with this code
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
RUNNER = "tests/test_guides.py"
_MARK = re.compile(r"<!-- (not run|run in|exit): (.*?) -->\n")
_COMMON = re.compile(r"# [^\n]*\n\n" + _MARK.pattern + r"\n")
_BLOCK = re.compile(r"((?:<!-- [^\n]* -->\n)*)```(\w*)\n(.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    language: str
    text: str
    marks: Mapping[str, str]

    @property
    def is_code(self) -> bool:
        return self.language in {"sh", "python"}

    @property
    def runner(self) -> str:
        """The test file that runs it; empty where none does."""
        return "" if "not run" in self.marks else self.marks.get("run in", RUNNER)

    def commands(self) -> list[list[str]]:
        """The words of each of its commands, comments and what a command is fed left out."""
        plain = re.sub(r"<<'END'\n.*?\nEND\n", "\n", self.text, flags=re.DOTALL)
        lines = plain.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def blocks(path: Path) -> list[Block]:
    text = path.read_text(encoding="utf-8")
    whole = _COMMON.match(text)
    common = {whole[1]: whole[2]} if whole else {}
    page = str(path.relative_to(ROOT))
    return [
        Block(page, found[2], found[3], {**common, **dict(_MARK.findall(found[1]))})
        for found in _BLOCK.finditer(text)
    ]


def environment(folder: Path, **variables: str) -> dict[str, str]:
    """A shell's environment in which `safemirage` is this code, and the storage lies in `folder`."""
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "SAFEMIRAGE_STORAGE": str(folder / "storage"),
        **variables,
    }


def run_block(block: Block, folder: Path, changes: Mapping[str, str], **variables: str) -> str:
    """Runs a block in a folder, as its reader would; what it prints.

    Args:
        changes: what is written in the page, and what stands in its place here: other weights, no GPU. Each must be there.
        variables: exported beforehand.
    """
    text = block.text
    for written, here in changes.items():
        text = text.replace(written, here)
    command = ["bash", "-e", "-c", text] if block.language == "sh" else [sys.executable, "-c", text]
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment(folder, **variables),
        capture_output=True,
        text=True,
        check=False,
    )
    allowed = {int(code) for code in re.findall(r"\d+", block.marks.get("exit", "0"))}
    assert done.returncode in allowed, f"{block.page}\n{text}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


def lines(section: str = "On a cluster") -> list[str]:
    """The lines of the first block of a section of README, as they are written; continued lines are joined."""
    text = README.read_text(encoding="utf-8").partition(f"## {section}\n")[2]
    block = re.search(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    assert block is not None, section
    return [line for line in block[1].replace("\\\n", " ").splitlines() if line]
