"""vLLM reads an export of every family and answers as transformers does; how: tests/engines/test_vllm.py."""

import importlib.util
from pathlib import Path

import pytest

from safemirage.models.export import write_export
from safemirage.models.processor import square_images
from tests.engines.test_vllm import GREEDY, by_transformers, in_own_process, record
from tests.tiny_families import TINY_MEMBERS, TinyMember

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed"),
]


def export(folder: Path, member: TinyMember) -> Path:
    write_export(
        folder,
        model=member.model,
        processor=member.processor,
        state_dict=None,
        family=member.family,
        record=record(),
    )
    return folder


NOT_TRIED = ("qwen3_vl", "llava_onevision", "internvl", "idefics3", "smolvlm")
"""Families whose exports no vLLM has read yet; docs/reference/models.md says so."""


@pytest.mark.parametrize(
    "family", [name for name in TINY_MEMBERS if name not in ("llava", *NOT_TRIED)]
)
def test_member_answers_alike_in_vllm_and_in_transformers(family: str, tmp_path: Path) -> None:
    folder = export(tmp_path / "export", TINY_MEMBERS[family]())
    expected = by_transformers(folder)
    assert len({one.text for one in expected}) >= 8
    assert in_own_process(folder, GREEDY).answers[0] == expected


def test_padded_images_are_the_same_in_vllm_and_in_transformers(tmp_path: Path) -> None:
    member = TINY_MEMBERS["llava"]()
    plain = by_transformers(export(tmp_path / "plain", member))
    member.processor.image_processor = square_images(member.processor.image_processor, pad=True)
    folder = export(tmp_path / "padded", member)
    expected = by_transformers(folder)
    assert expected != plain
    assert in_own_process(folder, GREEDY).answers[0] == expected
