"""The judges of a service by name: the built-in ones, and those of its config that ask a model."""

from collections.abc import Awaitable, Callable, Sequence

from safemirage.config.generators import OpenAIConfig
from safemirage.config.judges import AskingJudgeConfig, ExportConfig, judge_title
from safemirage.evaluation.generators import Generator
from safemirage.evaluation.generators.openai import OpenAIGenerator
from safemirage.evaluation.judges import Judge
from safemirage.evaluation.judges.build import build_judge, built_in_judge

OpenModel = Callable[[str, str], Awaitable[Generator]]
"""Opens what asks an export, by its id, for an owner whose fair share it takes."""


class Judges:
    def __init__(self, configs: Sequence[AskingJudgeConfig], open_model: OpenModel) -> None:
        self._configs = {judge_title(config): config for config in configs}
        self._open_model = open_model
        self._remote: dict[str, Generator] = {}
        """Clients of models behind URLs, by the judge; open until this process ends."""

    async def open(self, name: str, owner: str = "") -> Judge:
        """A judge that is ready to be asked.

        Raises:
            ValueError: no judge has this name.
            GeneratorUnavailable: its model cannot be loaded or reached.
        """
        config = self._configs.get(name)
        if config is None:
            return built_in_judge(name)
        generator = await self._generator(name, config, owner)
        return build_judge(config, lambda _: generator)

    async def _generator(self, name: str, config: AskingJudgeConfig, owner: str) -> Generator:
        if isinstance(config.model, ExportConfig):
            return await self._open_model(config.model.id, owner)
        assert isinstance(config.model, OpenAIConfig), "the service's config checks it"
        if name not in self._remote:
            self._remote[name] = await OpenAIGenerator(config.model).__aenter__()
        return self._remote[name]
