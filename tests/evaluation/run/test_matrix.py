"""Models x suites in one process: each model opened once, one that fails leaves the others alone."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from safemirage.config.evaluate import EvaluateConfig
from safemirage.config.generators import GeneratorConfig
from safemirage.config.loading.load import build_config
from safemirage.evaluation.generators import Generator, GeneratorUnavailable
from safemirage.evaluation.generators.scripted import ScriptedGenerator
from safemirage.evaluation.run.matrix import Outcome, run_many, shares
from safemirage.store import Store, open_store
from tests.evaluation.samples import sample_record, write_suite


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(f"sqlite:///{tmp_path / 'store.db'}") as opened:
        yield opened


class Opener:
    """Opens scripted models, and notes which and how many at a time."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.open_now = 0
        self.most = 0

    @asynccontextmanager
    async def __call__(self, config: GeneratorConfig) -> AsyncIterator[Generator]:
        name = Path(getattr(config, "path", "")).name
        self.opened.append(name)
        if name == "broken":
            raise GeneratorUnavailable("no such export")
        self.open_now += 1
        self.most = max(self.most, self.open_now)
        said = '{"verdict": "harmful"}' if name == "judge" else f"a red {name}"
        yield ScriptedGenerator(lambda _: said, version=name)
        self.open_now -= 1


def config(model: str, suite: Path) -> EvaluateConfig:
    """Of a model beside the suite: its identity is read from its files."""

    def engine(name: str) -> dict[str, str]:
        folder = suite.parent / "models" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(f'{{"model": "{name}"}}')
        return {"name": "transformers", "path": str(folder)}

    judge = {"name": "model", "title": "guard", "model": engine("judge")}
    tree = {
        "name": model,
        "model": engine(model),
        "suite": str(suite),
        "judges": [{"name": "keywords"}, judge],
    }
    return build_config(EvaluateConfig, tree)


def run(configs: list[EvaluateConfig], store: Store, opener: Opener, engines: int) -> list[Outcome]:
    return asyncio.run(
        run_many(
            configs,
            store=store,
            open_model=opener,
            engines=engines,
            on_progress_of=lambda _: lambda done, total: None,
        )
    )


def test_each_model_is_opened_once_for_all_its_suites_and_the_judge_once_for_all(
    store: Store, tmp_path: Path
) -> None:
    suites = [write_suite(tmp_path / n, [sample_record(n + c) for c in "abc"]) for n in ("s", "t")]
    configs = [config(model, suite) for model in ("knife", "sorry") for suite in suites]
    opener = Opener()
    outcomes = run(configs, store, opener, engines=1)
    assert opener.opened == ["judge", "knife", "sorry"]
    assert (opener.most, opener.open_now) == (2, 0)
    assert [outcome.config for outcome in outcomes] == configs
    for outcome in outcomes:
        assert outcome.evaluation is not None
        assert (outcome.evaluation.state, outcome.evaluation.done) == ("finished", 3)
        assert (outcome.calls.answers, outcome.calls.verdicts) == (3, 3)
    again = run(configs, store, Opener(), engines=4)
    assert [one.evaluation for one in again] == [one.evaluation for one in outcomes]
    assert sum(one.calls.answers + one.calls.verdicts for one in again) == 0


def test_model_that_cannot_be_opened_leaves_the_others_alone(store: Store, tmp_path: Path) -> None:
    suite = write_suite(tmp_path / "s", [sample_record(name) for name in "ab"])
    broken, fine = run([config("broken", suite), config("knife", suite)], store, Opener(), 2)
    assert broken.evaluation is None
    assert broken.error == "GeneratorUnavailable: no such export"
    assert fine.evaluation is not None
    assert fine.evaluation.state == "finished"


def test_suite_that_cannot_be_read_fails_alone(store: Store, tmp_path: Path) -> None:
    suite = write_suite(tmp_path / "s", [sample_record("a")])
    missing, fine = run([config("m", tmp_path / "none"), config("m", suite)], store, Opener(), 1)
    assert "SuiteError" in missing.error
    assert fine.evaluation is not None


def test_engines_to_spare_are_dealt_a_model_s_suites(tmp_path: Path) -> None:
    suites = [tmp_path / name for name in "abc"]
    configs = [config("m", suite) for suite in suites]
    assert [len(share) for share in shares(configs, 1)] == [3]
    assert [len(share) for share in shares(configs, 2)] == [2, 1]
    assert [len(share) for share in shares(configs, 9)] == [1, 1, 1]
    both = [*configs, config("n", suites[0])]
    assert [len(share) for share in shares(both, 2)] == [3, 1]
