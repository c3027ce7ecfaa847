"""The figures of a search: the front with its bands, the hypervolume over what was spent, importances."""

from dataclasses import replace

import pytest

from ray_jobs.tune.figures import figures_of
from ray_jobs.tune.outcome import judge_trials
from tests.ray_jobs.tune.test_outcome import BOUND, bounded, search, trial


def test_figures_show_front_bands_and_the_hypervolume_over_hours() -> None:
    first = replace(bounded(0, 0.5, 0.0), bands={"asr": (0.25, 0.75), "useful": (0.4, 0.6)})
    trials = [first, bounded(1, 0.0, 0.9), bounded(2, 0.25, 0.0), trial(3, None)]
    trials = [replace(one, hours=0.5) for one in trials]
    config = search(**BOUND)
    outcome = judge_trials("s", trials, config)
    figures = figures_of(replace(outcome, front=(0, 2)), config, {"asr": {"method.beta": 1.0}})
    (front,) = figures["front"].axes
    shown = {
        line.get_label(): len(line.get_xdata())
        for line in front.lines
        if line.get_label()[0] != "_"
    }
    assert shown == {"beyond a bound": 1, "trial": 2, "front": 2, "chosen": 1}
    (band, *_) = front.containers[0].lines[2]
    assert band.get_segments()[0][:, 0].tolist() == [0.25, 0.75]
    (curve,) = figures["hypervolume"].axes[0].lines
    assert list(curve.get_xdata()) == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert curve.get_ydata()[-1] == pytest.approx(outcome.hypervolume)
    assert curve.get_ydata()[1] == curve.get_ydata()[2], "a point beyond a bound adds nothing"
    (bar,) = figures["importances"].axes[0].patches
    assert bar.get_width() == 1.0
    assert set(figures_of(outcome, config, {})) == {"front", "hypervolume"}
