"""vLLM reads an export of every family and answers as transformers does; how: tests/engines/test_vllm.py."""

import importlib.util
from pathlib import Path

import pytest

from safemirage.config.loading.load import ConfigError
from safemirage.evaluation.generators.vllm import VLLMGenerator
from safemirage.models.families import FAMILIES
from safemirage.models.processor import square_images
from tests.engines.test_vllm import GREEDY, by_transformers, in_own_process
from tests.tiny_families import TINY_MEMBERS, export_member

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed"),
]


@pytest.mark.parametrize(
    "family", [name for name in TINY_MEMBERS if name != "llava" and FAMILIES[name].alike_in_vllm]
)
def test_member_answers_alike_in_vllm_and_in_transformers(family: str, tmp_path: Path) -> None:
    folder = export_member(tmp_path / "export", TINY_MEMBERS[family]())
    expected = by_transformers(folder)
    assert len({one.text for one in expected}) >= 8
    assert in_own_process(folder, GREEDY).answers[0] == expected


def test_padded_images_are_the_same_in_vllm_and_in_transformers(tmp_path: Path) -> None:
    member = TINY_MEMBERS["llava"]()
    plain = by_transformers(export_member(tmp_path / "plain", member))
    member.processor.image_processor = square_images(member.processor.image_processor, pad=True)
    folder = export_member(tmp_path / "padded", member)
    expected = by_transformers(folder)
    assert expected != plain
    assert in_own_process(folder, GREEDY).answers[0] == expected


@pytest.mark.parametrize("family", [name for name in FAMILIES if not FAMILIES[name].alike_in_vllm])
def test_family_that_vllm_answers_otherwise_for_is_refused_by_vllm(
    family: str, tmp_path: Path
) -> None:
    folder = export_member(tmp_path / "export", TINY_MEMBERS[family]())
    with pytest.raises(ConfigError, match=f"family {family}.*name: transformers"):
        VLLMGenerator.load(folder)
