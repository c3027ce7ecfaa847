"""The one switch from a judge's config, or a built-in judge's name, to the judge."""

from collections.abc import Callable, Mapping
from typing import assert_never

from safemirage.config.evaluate import (
    GeneratorConfig,
    JudgeConfig,
    KeywordsJudgeConfig,
    ModelJudgeConfig,
    OracleJudgeConfig,
    UsefulJudgeConfig,
)
from safemirage.evaluation.generators import Generator
from safemirage.evaluation.judges import Judge
from safemirage.evaluation.judges.keywords import KeywordsJudge
from safemirage.evaluation.judges.model import ModelJudge
from safemirage.evaluation.judges.oracle import OracleJudge, UsefulJudge

BUILT_IN: Mapping[str, Callable[[], Judge]] = {
    "keywords": KeywordsJudge,
    "oracle": OracleJudge,
    "useful": UsefulJudge,
}
"""Judges that need no model, by the name that they can be asked for."""


def build_judge(config: JudgeConfig, generator_of: Callable[[GeneratorConfig], Generator]) -> Judge:
    """`generator_of` gives the open generator that a judging model is asked through."""
    match config:
        case KeywordsJudgeConfig():
            return KeywordsJudge()
        case OracleJudgeConfig():
            return OracleJudge()
        case UsefulJudgeConfig():
            return UsefulJudge()
        case ModelJudgeConfig():
            return ModelJudge(config.title, config.prompt, generator_of(config.model))
        case _:
            assert_never(config)


def built_in_judge(name: str) -> Judge:
    """Raises ValueError for a name that no built-in judge has."""
    if name not in BUILT_IN:
        raise ValueError(f"judge: {name!r} is unknown; built-in are: {', '.join(BUILT_IN)}")
    return BUILT_IN[name]()
