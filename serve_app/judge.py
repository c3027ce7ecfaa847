"""The judges of a service by name: the built-in ones, and served models that are asked for a verdict."""

from collections.abc import Awaitable, Callable, Sequence

from safemirage.config.serve import ServedJudgeConfig
from safemirage.evaluation.generators import Generator
from safemirage.evaluation.judges import Judge
from safemirage.evaluation.judges.build import BUILT_IN, built_in_judge
from safemirage.evaluation.judges.model import ModelJudge

OpenModel = Callable[[str], Awaitable[Generator]]
"""Id of an export -> what asks it."""


class Judges:
    def __init__(self, configs: Sequence[ServedJudgeConfig], open_model: OpenModel) -> None:
        self._configs = {config.name: config for config in configs}
        self._open_model = open_model

    async def open(self, name: str) -> Judge:
        """A judge that is ready to be asked.

        Raises:
            ValueError: no judge has this name.
            GeneratorUnavailable: its model cannot be loaded.
        """
        config = self._configs.get(name)
        if config is None:
            return built_in_judge(name)
        return ModelJudge(config.name, config.prompt, await self._open_model(config.model))

    @property
    def names(self) -> tuple[str, ...]:
        return (*BUILT_IN, *self._configs)
