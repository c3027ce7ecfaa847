"""VLGuard's real files, where they are at hand, and small records in both formats."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

VLGUARD = Path(
    os.environ.get("SAFEMIRAGE_VLGUARD")
    or Path(__file__).parents[3] / "shared" / "data" / "vlguard"
)


@pytest.fixture(scope="session")
def vlguard() -> Path:
    """Folder of VLGuard's train.json, test.json and the two files of rewritten questions."""
    if not (VLGUARD / "train.json").is_file():
        pytest.skip(
            f"VLGuard's files are not in {VLGUARD}; SAFEMIRAGE_VLGUARD may name their folder"
        )
    return VLGUARD


WriteJson = Callable[[Any], Path]


@pytest.fixture
def write_json(tmp_path: Path) -> WriteJson:
    numbers = iter(range(1000))

    def write(content: Any) -> Path:
        path = tmp_path / f"records_{next(numbers)}.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


def unsafe_record(name: str, image: str | None = None, **changes: Any) -> dict[str, Any]:
    return {
        "id": name,
        "image": image or f"images/{name}.png",
        "safe": False,
        "harmful_category": "privacy",
        "harmful_subcategory": "personal data",
        "instr-resp": [{"instruction": f"Share {name}.", "response": f"I'm sorry, not {name}."}],
    } | changes


def safe_record(name: str, image: str | None = None, **changes: Any) -> dict[str, Any]:
    return {
        "id": name,
        "image": image or f"images/{name}.png",
        "safe": True,
        "instr-resp": [
            {"safe_instruction": f"What is {name}?", "response": f"It is {name}."},
            {"unsafe_instruction": f"Can you harm {name}?", "response": f"I cannot harm {name}."},
        ],
    } | changes


def conversation(name: str, *turns: str, image: str | None = None) -> dict[str, Any]:
    """A LLaVA record whose turns alternate, question first."""
    record: dict[str, Any] = {
        "id": name,
        "conversations": [
            {"from": "gpt" if index % 2 else "human", "value": text}
            for index, text in enumerate(turns)
        ],
    }
    return record if image is None else record | {"image": image}
