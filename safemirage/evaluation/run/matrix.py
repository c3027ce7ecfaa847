"""Many evaluations, models x suites: each model is opened once for all its suites, and the judges once for all models.

Where the models run is not settled here: `open_model` may open them in this process, or anywhere else.
"""

import asyncio
import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from safemirage.config.evaluate import EvaluateConfig
from safemirage.config.generators import GeneratorConfig, OpenAIConfig
from safemirage.config.judges import judging_model
from safemirage.config.loading.identity import digest_of
from safemirage.config.loading.load import ConfigError, to_tree
from safemirage.evaluation.errors import EvaluationError
from safemirage.evaluation.generators import GenerationError, Generator
from safemirage.evaluation.generators.asking import ModelCalls
from safemirage.evaluation.generators.build import open_generator
from safemirage.evaluation.metrics.rates import StoredEvaluation
from safemirage.evaluation.run.archive import load_evaluation
from safemirage.evaluation.run.preflight import require
from safemirage.evaluation.run.process import OpenModel, run_evaluation
from safemirage.progress import OnProgress
from safemirage.settings import Settings, load_located
from safemirage.store.database import Store, open_store
from safemirage.store.evaluations import Evaluation

OnProgressOf = Callable[[EvaluateConfig], OnProgress]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    config: EvaluateConfig
    evaluation: Evaluation | None
    """The evaluation at its end; None where it failed."""
    error: str = ""
    calls: ModelCalls

    @property
    def problem(self) -> str:
        """Why it has no rates; empty where it finished."""
        if self.evaluation is None:
            return self.error
        state = self.evaluation.state
        return "" if state == "finished" else f"{state} {self.evaluation.error or ''}".rstrip()


def load_configs(
    path: Path | str,
    models: Sequence[str],
    suites: Sequence[str],
    overrides: Sequence[str],
    settings: Settings,
) -> list[EvaluateConfig]:
    """One config for each model and suite; without any of either, those of the file.

    Raises:
        ConfigError: see `load_config`; a model behind a URL has no path; two models of one folder name.
    """
    base = load_located(EvaluateConfig, path, overrides, settings)
    if models and isinstance(base.model, OpenAIConfig):
        raise ConfigError(
            "--model: the config's model is behind a URL and has no path; name an engine, e.g. model.name=vllm"
        )
    names = [Path(model).name for model in models]
    if len(set(names)) < len(names):
        raise ConfigError(
            f"--model: {list(models)} hold a folder name twice; tables tell models apart by it"
        )
    of_models = [
        [f"model.path={json.dumps(model)}", f"name={json.dumps(Path(model).name)}"]
        for model in models
    ]
    of_suites = [[f"suite={json.dumps(suite)}"] for suite in suites]
    return [
        load_located(EvaluateConfig, path, [*overrides, *of_model, *of_suite], settings)
        for of_model in of_models or [[]]
        for of_suite in of_suites or [[]]
    ]


def model_key(config: GeneratorConfig) -> str:
    """Configs with the same key are served by one engine."""
    return digest_of(to_tree(config))


def judging_models(configs: Iterable[EvaluateConfig]) -> dict[str, GeneratorConfig]:
    """The models that judges ask, by key."""
    found: dict[str, GeneratorConfig] = {}
    for config in configs:
        for judge in config.judges:
            model = judging_model(judge)
            if model is not None:
                found[model_key(model)] = model
    return found


def shares(configs: Sequence[EvaluateConfig], engines: int) -> list[list[EvaluateConfig]]:
    """The evaluations of each engine, one model an engine. Where there are engines to spare, a model gets several, and
    its suites are dealt out among them."""
    by_model: dict[str, list[EvaluateConfig]] = {}
    for config in configs:
        by_model.setdefault(model_key(config.model), []).append(config)
    each = max(1, engines // len(by_model)) if by_model else 1
    dealt = [items[start::each] for items in by_model.values() for start in range(each)]
    return [share for share in dealt if share]


def run_here(
    configs: Sequence[EvaluateConfig], *, on_progress_of: OnProgressOf, settings: Settings
) -> list[Outcome]:
    """The evaluations in this process, one model after another.

    Raises:
        PreflightError: lists everything that is missing.
        GenerationError, ConfigError: a judge's model cannot be opened.
    """
    require(*configs)
    with open_store(settings.store_url) as store:
        return asyncio.run(
            run_many(
                configs,
                store=store,
                open_model=open_generator,
                engines=1,
                on_progress_of=on_progress_of,
            )
        )


def evaluate_file(
    path: Path | str, overrides: Sequence[str], settings: Settings
) -> StoredEvaluation:
    """The finished evaluation of a run file, made in this process, also where an event loop runs, as in a notebook.

    Raises:
        ConfigError: the file cannot be used, or something that it names is missing.
        EvaluationError: it failed.
    """
    configs = load_configs(path, [], [], overrides, settings)
    with ThreadPoolExecutor(max_workers=1) as pool:  # a thread has no event loop yet
        work = partial(run_here, configs, on_progress_of=_in_silence, settings=settings)
        (outcome,) = pool.submit(work).result()
    if outcome.problem or outcome.evaluation is None:
        raise EvaluationError(f"evaluation {outcome.config.name}: {outcome.problem}")
    with open_store(settings.store_url) as store:
        return load_evaluation(store, outcome.evaluation)


def _in_silence(_: EvaluateConfig) -> OnProgress:
    return lambda done, total: None


async def run_many(
    configs: Sequence[EvaluateConfig],
    *,
    store: Store,
    open_model: OpenModel,
    engines: int,
    on_progress_of: OnProgressOf,
) -> list[Outcome]:
    """One outcome an evaluation, in order. One that fails leaves the others alone; run again, it resumes.

    Args:
        engines: models that are open at a time, those of judges not counted.

    Raises:
        GeneratorUnavailable, ConfigError: a judge's model cannot be opened.
    """
    free = asyncio.Semaphore(engines)
    async with AsyncExitStack() as stack:
        judges = {
            key: await stack.enter_async_context(open_model(model))
            for key, model in judging_models(configs).items()
        }

        async def share(items: Sequence[EvaluateConfig]) -> list[Outcome]:
            async with free:
                return await _share(
                    items, judges, store=store, open_model=open_model, on_progress_of=on_progress_of
                )

        done = await asyncio.gather(*(share(items) for items in shares(configs, engines)))
    outcomes = {id(outcome.config): outcome for group in done for outcome in group}
    return [outcomes[id(config)] for config in configs]


async def _share(
    configs: Sequence[EvaluateConfig],
    judges: dict[str, Generator],
    *,
    store: Store,
    open_model: OpenModel,
    on_progress_of: OnProgressOf,
) -> list[Outcome]:
    """The evaluations of one engine. They run side by side, so that it answers one while another is judged."""
    try:
        async with open_model(configs[0].model) as generator:
            opened = {**judges, model_key(configs[0].model): generator}
            return await asyncio.gather(
                *(_one(config, opened, store, on_progress_of(config)) for config in configs)
            )
    except (GenerationError, ConfigError) as error:
        return [_failed(config, error, ModelCalls()) for config in configs]


async def _one(
    config: EvaluateConfig, opened: dict[str, Generator], store: Store, on_progress: OnProgress
) -> Outcome:
    calls = ModelCalls()
    try:
        evaluation = await run_evaluation(
            config,
            store=store,
            on_progress=on_progress,
            calls=calls,
            open_model=lambda model: nullcontext(opened[model_key(model)]),
        )
    except (GenerationError, ValueError) as error:
        return _failed(config, error, calls)
    return Outcome(config=config, evaluation=evaluation, calls=calls)


def _failed(config: EvaluateConfig, error: Exception, calls: ModelCalls) -> Outcome:
    return Outcome(
        config=config, evaluation=None, error=f"{type(error).__name__}: {error}", calls=calls
    )
