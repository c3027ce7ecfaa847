"""Called by MkDocs (`hooks` in mkdocs.yml): adds the generated pages, and CONTRIBUTING and CHANGELOG, to the site."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from docs.generate.commands import commands_page
from docs.generate.http import http_page
from docs.generate.keys import key_pages

ROOT = Path(__file__).parents[2]


def on_config(config: Any) -> Any:
    """Puts the pages of the config keys where the navigation names their folder."""
    for entry in config.nav:
        for tab in entry.values():
            for part in tab if isinstance(tab, list) else ():
                if isinstance(part, dict) and part.get("Config keys"):
                    part["Config keys"] = [f"reference/config/{name}" for name in key_pages()]
    return config


def on_files(files: Files, *, config: Any) -> Files:
    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def pages() -> dict[str, str]:
    """Every page that is no file below docs/, by its path there."""
    return {
        "reference/cli.md": commands_page(),
        "reference/http.md": http_page(),
        **{f"reference/config/{name}": text for name, text in key_pages().items()},
        **{f"{name.lower()}.md": from_root(f"{name}.md") for name in ("CONTRIBUTING", "CHANGELOG")},
    }


def from_root(name: str) -> str:
    """A page of the repository's root; its links into docs/ are links inside the site."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return re.sub(r"\]\(docs/([^)]+)\)", r"](\1)", text)
