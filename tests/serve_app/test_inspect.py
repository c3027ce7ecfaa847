"""Inspect's own evaluations, unchanged, against the API over a real socket: images, several turns, log-probabilities."""

from pathlib import Path
from typing import Any

import pytest
from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.model import ChatMessageUser, ContentImage, ContentText, GenerateConfig
from inspect_ai.scorer import includes
from inspect_ai.solver import generate, self_critique

from tests.serve_app.world import MODEL, READER, World, data_uri, png

pytestmark = pytest.mark.slow


def test_inspect_evaluates_with_images_turns_choices_and_logprobs(
    url: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", READER)
    asked = ChatMessageUser(
        content=[ContentText(text="what is this"), ContentImage(image=data_uri(png()))]
    )
    task = Task(
        dataset=[Sample(input=[asked], target="siht")],
        solver=[generate(), self_critique()],
        scorer=includes(),
    )
    options: dict[str, Any] = {
        "model_base_url": f"{url}/v1",
        "log_dir": str(tmp_path),
        "display": "none",
    }
    several = GenerateConfig(num_choices=2, logprobs=True, top_logprobs=0, seed=7)
    choosing = Task(
        dataset=[Sample(input="what", target="tahw")], scorer=includes(), config=several
    )
    # One call, because Inspect keeps a client whose event loop ends with it.
    [log, other] = eval(
        [task, choosing], model=f"openai/{MODEL}", max_tasks=1, max_samples=1, **options
    )
    for one in (log, other):
        assert one.status == "success", one.error
    first = world.engines.requests[0][1]
    assert first.image is not None
    # The answer, its critique, the better answer; then two choices.
    assert len(world.engines.requests) == 3 + 2
    assert other.samples is not None
    choices = other.samples[0].output.choices
    assert [choice.message.text for choice in choices] == ["tahw", "tahw"]
    assert choices[0].logprobs is not None
    assert [token.token for token in choices[0].logprobs.content] == list("tahw")
