"""How often do the 95 % intervals of a report hold the truth? Run it by `make bench-coverage`.

Each draw is a suite of 442 questions with three answers each about 330 pictures, some of which two questions share, as in
VLGuard. Answers to one question are alike, and so are those about one picture: what each answer is follows from a normal
number of the picture, one of the question and one of its own. The true rate is that of the quantity itself (any of three
for ASR), so it is known, and an interval holds it or does not.

The table says for each interval and true rate in how many of the draws it did, and how wide it was. The judge of the
corrected rates misses and flags answers as often as its labelled answers say, and errs alike on half of the questions.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.polynomial.hermite_e import hermegauss
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr

from safemirage.config.rates import Label
from safemirage.evaluation.metrics.breakdowns import attempt_rates
from safemirage.evaluation.metrics.calibration import calibrate, correct_any_of
from safemirage.evaluation.metrics.gap import mirage_gap
from safemirage.evaluation.metrics.rates import score
from safemirage.evaluation.types import EvaluatedSample, Verdict

RATES = (0.005, 0.02, 0.1, 0.3)
LEAST = 0.93
"""What every interval must reach."""
OF_PICTURE, OF_QUESTION = 0.3, 0.3
"""Shares of an answer's variance that come from its picture and from its question."""
SENSITIVITY, SPECIFICITY, LABELLED = 0.9, 0.97, 400
ERRS_ALIKE = 0.5
"""Share of the questions on whose answers the judge errs alike."""
_NODES, _WEIGHTS = hermegauss(80)
Array = NDArray[np.float64]
Bounds = tuple[float, float]


@dataclass(frozen=True)
class World:
    """Questions about pictures: the last pictures have two each."""

    questions: int
    images: int
    attempts: int

    @cached_property
    def image_of(self) -> NDArray[np.int64]:
        return np.minimum(np.arange(self.questions) % self.images, self.images - 1)

    def latent(self, rng: np.random.Generator) -> Array:
        """What picture and question make of each question, for any number of its answers."""
        picture = rng.standard_normal(self.images)[self.image_of]
        question = rng.standard_normal(self.questions)
        return OF_PICTURE**0.5 * picture + OF_QUESTION**0.5 * question

    def answers(
        self, latent: Array, threshold: float, rng: np.random.Generator
    ) -> NDArray[np.bool_]:
        """Which answers count: questions x attempts."""
        own = rng.standard_normal((self.questions, self.attempts))
        return latent[:, None] + (1 - OF_PICTURE - OF_QUESTION) ** 0.5 * own < threshold


def any_of(threshold: float, attempts: int) -> float:
    """The true share of questions of which any of so many answers counts."""
    own = (1 - OF_PICTURE - OF_QUESTION) ** 0.5
    none = (1 - ndtr((threshold - (OF_PICTURE + OF_QUESTION) ** 0.5 * _NODES) / own)) ** attempts
    return 1 - float(none @ _WEIGHTS) / (2 * np.pi) ** 0.5


def threshold_of(rate: float, attempts: int) -> float:
    return float(brentq(lambda value: any_of(value, attempts) - rate, -12, 12))


def samples_of(
    world: World, answers: NDArray[np.bool_], attack: str = "what"
) -> list[EvaluatedSample]:
    labels: tuple[Label, Label] = ("refuse", "comply")
    return [
        EvaluatedSample(
            sample_id=f"{question}-{attempt}",
            condition=f"unsafe_{attack}",
            subset="unsafe",
            attack=attack,
            group_id=str(question),
            question="q",
            image=str(world.image_of[question]),
            answer="a",
            verdicts=(Verdict(judge="j", label=labels[int(answers[question, attempt])]),),
        )
        for question in range(world.questions)
        for attempt in range(world.attempts)
    ]


def _row(
    metric: str, attempts: int
) -> Callable[[World, float, np.random.Generator], tuple[float, Bounds]]:
    def draw(world: World, rate: float, rng: np.random.Generator) -> tuple[float, Bounds]:
        answers = world.answers(world.latent(rng), threshold_of(rate, attempts), rng)
        rows = score("m", samples_of(world, answers), {"j": ("asr", "response_asr")})
        (row,) = (row for row in rows if row.metric == metric)
        assert row.low is not None
        assert row.high is not None
        return rate, (row.low, row.high)

    return draw


def _attempts(world: World, rate: float, rng: np.random.Generator) -> tuple[float, Bounds]:
    answers = world.answers(world.latent(rng), threshold_of(rate, 2), rng)
    found = attempt_rates("m", samples_of(world, answers), "j")[1]
    return rate, (found.low, found.high)


def _gap(more: float) -> Callable[[World, float, np.random.Generator], tuple[float, Bounds]]:
    """A gap, or a paired change: both are the difference of two any-of-K over the same questions."""

    def draw(world: World, rate: float, rng: np.random.Generator) -> tuple[float, Bounds]:
        latent, attacked = world.latent(rng), min(0.9, more * rate)
        control = world.answers(latent, threshold_of(rate, world.attempts), rng)
        attack = world.answers(latent, threshold_of(attacked, world.attempts), rng)
        change = mirage_gap(
            samples_of(world, attack), samples_of(world, control, "neutral"), "j"
        ).change
        return attacked - rate, (change.low, change.high)

    return draw


def _corrected(
    per_answer: bool,
) -> Callable[[World, float, np.random.Generator], tuple[float, Bounds]]:
    def draw(world: World, rate: float, rng: np.random.Generator) -> tuple[float, Bounds]:
        threshold = threshold_of(rate, 1 if per_answer else world.attempts)
        answers = world.answers(world.latent(rng), threshold, rng)
        errs = rng.random(answers.shape)
        alike = rng.random(world.questions) < ERRS_ALIKE
        errs[alike] = errs[alike][:, :1]
        said = np.where(answers, errs < SENSITIVITY, errs > SPECIFICITY)
        truth = ["comply"] * LABELLED + ["refuse"] * LABELLED
        hit = np.r_[rng.random(LABELLED) < SENSITIVITY, rng.random(LABELLED) > SPECIFICITY]
        known = calibrate("j", "comply", truth, ["comply" if one else "refuse" for one in hit])
        questions: Sequence[Sequence[bool]] = said.reshape(
            -1, 1 if per_answer else world.attempts
        ).tolist()
        images = np.repeat(world.image_of, world.attempts if per_answer else 1)
        found = correct_any_of(questions, [str(one) for one in images], known, draws=400)
        return rate, (found.low, found.high)

    return draw


INTERVALS = {
    "ASR, any of 3 over questions": _row("asr", 3),
    "per response": _row("response_asr", 1),
    "ASR@2 of 3": _attempts,
    "mirage gap or paired change, none": _gap(1),
    "mirage gap or paired change, x 3": _gap(3),
    "per response, corrected for the judge": _corrected(True),
    "any of 3, corrected for the judge": _corrected(False),
}


def coverage(name: str, world: World, rate: float, *, draws: int, seed: int) -> tuple[float, float]:
    """In which share of the draws the interval held the truth, and its mean width."""
    rng = np.random.default_rng([seed, list(INTERVALS).index(name)])
    held, width = 0, 0.0
    for _ in range(draws):
        truth, (low, high) = INTERVALS[name](world, rate, rng)
        held += low <= truth <= high
        width += high - low
    return held / draws, width / draws


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    world = World(questions=442, images=330, attempts=3)
    print(f"{'interval':40}" + "".join(f"{100 * rate:>12g} %" for rate in RATES))
    table: dict[str, dict[str, list[float]]] = {}
    for name in INTERVALS:
        found = {
            str(rate): list(coverage(name, world, rate, draws=options.draws, seed=options.seed))
            for rate in RATES
        }
        table[name] = found
        cells = [f"{100 * held:6.1f} ±{50 * width:5.1f}" for held, width in found.values()]
        print(f"{name:40}" + "".join(f"{cell:>14}" for cell in cells), flush=True)
    print("in %: how often the interval held the true rate, ± half its mean width")
    print(json.dumps({"draws": options.draws, "coverage": table}))
    low = [name for name, found in table.items() if any(held < LEAST for held, _ in found.values())]
    sys.exit(f"below {LEAST:.0%}: {', '.join(low)}" if low else 0)


if __name__ == "__main__":
    main()
