"""The one switch from a judge's config, or a built-in judge's name, to the judge."""

from collections.abc import Callable
from pathlib import Path
from typing import assert_never

from safemirage.config.generators import TransformersConfig, VLLMConfig
from safemirage.config.judges import (
    BUILT_IN_JUDGES,
    GuardJudgeConfig,
    JudgeConfig,
    JudgeModelConfig,
    JudgePromptConfig,
    KeywordsJudgeConfig,
    ModelJudgeConfig,
    OracleJudgeConfig,
    RefusalRulesJudgeConfig,
    RelevanceJudgeConfig,
    UsefulJudgeConfig,
    UsefulnessJudgeConfig,
)
from safemirage.config.loading.load import ConfigError
from safemirage.config.rates import Metric
from safemirage.evaluation.generators import Generator
from safemirage.evaluation.generators.scripted import ScriptedGenerator
from safemirage.evaluation.judges import Judge
from safemirage.evaluation.judges.guards import GuardJudge
from safemirage.evaluation.judges.model import ModelJudge
from safemirage.evaluation.judges.oracle import OracleJudge, UsefulJudge
from safemirage.evaluation.judges.relevance import (
    ATTEMPTS_PROMPT,
    NORMAL_PROMPT,
    USER_MESSAGE,
    RelevanceJudge,
    RelevancePrompts,
)
from safemirage.evaluation.judges.rules import KeywordsJudge, RefusalRulesJudge
from safemirage.evaluation.judges.verdicts import usefulness_prompt

_NEVER_ASKED = ScriptedGenerator(lambda _: "", version="never asked")
"""Stands in a model's place where a judge is built to be looked at."""


def build_judge(
    config: JudgeConfig, generator_of: Callable[[JudgeModelConfig], Generator]
) -> Judge:
    """`generator_of` gives the open generator that a judging model is asked through.

    Raises:
        OSError: a prompt's file cannot be read.
        ConfigError: a message's file has no place for the answer.
    """
    match config:
        case KeywordsJudgeConfig():
            return KeywordsJudge()
        case RefusalRulesJudgeConfig():
            return RefusalRulesJudge()
        case OracleJudgeConfig():
            return OracleJudge()
        case UsefulJudgeConfig():
            return UsefulJudge()
        case ModelJudgeConfig():
            return _model_judge(config, config.prompt, generator_of(config.model))
        case UsefulnessJudgeConfig():
            prompt = usefulness_prompt(config.decoding)
            return _model_judge(config, prompt, generator_of(config.model))
        case RelevanceJudgeConfig():
            return RelevanceJudge(
                config.title,
                generator_of(config.model),
                prompts=_relevance_prompts(config),
                decoding=config.decoding,
            )
        case GuardJudgeConfig():
            generator = generator_of(config.model)
            return GuardJudge(
                config.title,
                config.guard,
                generator,
                decoding=config.decoding,
                score=config.score,
            )
        case _:
            assert_never(config)


def measures_of(config: JudgeConfig) -> tuple[Metric, ...]:
    """The rates that the judge's verdicts are counted in, before any model is opened."""
    return tuple(build_judge(config, lambda _: _NEVER_ASKED).measures)


def _model_judge(
    config: ModelJudgeConfig | UsefulnessJudgeConfig,
    prompt: JudgePromptConfig,
    generator: Generator,
) -> ModelJudge:
    sees_logits = isinstance(config.model, TransformersConfig | VLLMConfig)
    return ModelJudge(config.title, prompt, generator, one_pass=sees_logits and prompt.reasons < 1)


def _relevance_prompts(config: RelevanceJudgeConfig) -> RelevancePrompts:
    return RelevancePrompts(
        normal=_text(config.normal_prompt, NORMAL_PROMPT),
        attempts=_text(config.attempts_prompt, ATTEMPTS_PROMPT),
        normal_message=_message("normal_message", config.normal_message),
        attempts_message=_message("attempts_message", config.attempts_message),
    )


def _text(path: str | None, own: str) -> str:
    """What a file holds, a line break at its end left out; `own` where none is given."""
    if path is None:
        return own
    return Path(path).expanduser().read_text(encoding="utf-8-sig").removesuffix("\n")


def _message(key: str, path: str | None) -> str:
    text = _text(path, USER_MESSAGE)
    if "{answer}" not in text:
        raise ConfigError(
            f"{key}: {path} has no {{answer}} in it, so the judge would not see what it judges; write {{question}} and "
            "{answer} where the two belong"
        )
    return text


def built_in_judge(name: str) -> Judge:
    """Raises ValueError for a name that no built-in judge has."""
    if name not in BUILT_IN_JUDGES:
        raise ValueError(f"judge: {name!r} is unknown; built-in are: {', '.join(BUILT_IN_JUDGES)}")
    return build_judge(BUILT_IN_JUDGES[name](), lambda _: _NEVER_ASKED)
