"""The generated pages of the site tell of everything that there is: commands, config keys, HTTP bodies, Python names."""

import re
from pathlib import Path

import pytest
import typer.main
import yaml

import safemirage
from docs.generate.commands import commands, commands_page
from docs.generate.http import http_page
from docs.generate.keys import key_pages, keys, modules, tag_of
from safemirage.cli import app
from safemirage.config.loading.load import load_config
from safemirage.config.method import NPOConfig

DOCS = Path(__file__).parents[1] / "docs"


def rows(text: str) -> list[list[str]]:
    """The cells of a page's tables, without heads."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_every_command_and_option_stands_on_its_page_with_a_text() -> None:
    text = commands_page()
    for words, command in commands(typer.main.get_command(app), ("safemirage",)):
        section = text.partition(f"## {' '.join(words)} {{")[2].partition("\n## ")[0]
        assert command.help.strip()[:30].split("\n")[0] in section, words
        told = rows(section)[2:]
        assert len(told) == len(command.params), words
        for parameter, row in zip(command.params, told, strict=True):
            if parameter.param_type_name == "option":
                assert f"`{parameter.opts[0]}`" in row[0]
            assert row[-1], (words, row)


def test_every_config_key_says_what_it_is() -> None:
    silent = [
        f"{module.name}.{cls.__name__}.{key.name}"
        for module in modules()
        for cls in module.classes
        for key in keys(cls)
        if not re.sub(r"\*Not in the identity\.\*", "", key.text).strip()
        if key.name != "name" or not tag_of(cls)
    ]
    assert silent == [], "give these keys a text below their field"


def test_key_page_has_the_type_the_bounds_and_the_default_that_the_loader_takes(
    tmp_path: Path,
) -> None:
    section = key_pages()["method.md"].partition("{#npoconfig}")[2].partition("\n## ")[0]
    found = {row[0]: row for row in rows(section)}
    assert found["`beta`"][1:3] == ["number (&gt; 0)", "`0.1`"]
    assert found["`reduction`"][1:3] == ["`sum` or `mean`", "`sum`"]
    assert {name.strip("`") for name in found} - {"key", "---"} == {
        key.name for key in keys(NPOConfig) if key.name != "name"
    }
    # A default as the page writes it is what the loader reads back.
    path = tmp_path / "npo.yaml"
    written = {name.strip("`"): yaml.safe_load(row[2].strip("`")) for name, row in found.items() if name.strip("`") not in {"key", "---"}}  # fmt: skip
    path.write_text(yaml.safe_dump(written))
    assert load_config(NPOConfig, path) == NPOConfig()


@pytest.mark.parametrize("body", ["EvaluationBody", "JudgementItem", "SampleBody", "DecodingBody"])
def test_every_key_of_a_body_says_what_it_is(body: str) -> None:
    section = http_page().partition(f"{{#{body.lower()}}}")[2].partition("\n### ")[0]
    found = [row for row in rows(section) if row[0].startswith("`")]
    assert found
    assert [row[0] for row in found if not row[-1] and row[0] != "`decoding`"] == []


def test_page_of_python_lists_the_public_names() -> None:
    text = (DOCS / "reference" / "api.md").read_text()
    assert sorted(re.findall(r"::: safemirage\.(\w+)", text)) == sorted(safemirage.__all__)
