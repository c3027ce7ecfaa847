"""Small records in VLGuard's format and in LLaVA's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

WriteJson = Callable[[Any], Path]
"""What the fixture `write_json` gives: content in, the path of a JSON file that holds it out."""


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
