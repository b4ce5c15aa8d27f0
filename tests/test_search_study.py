"""training.search.study: trials are proposed, ended, given up, and proposed again after a stop."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from training.search.space import SPACE
from training.search.study import COMPLETE, DIVERGED, PRUNED, Study, Trial
from utils.errors import EnvironmentFault

SOME = tuple(parameter for parameter in SPACE if parameter.name in ("learning_rate", "loss", "box"))
BASELINE = {"learning_rate": 0.001, "loss": "darknet", "box": 0.07}


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Callable[..., Study]]:
    """Opens the search of one folder."""
    opened: list[Study] = []

    def open_it(**more: object) -> Study:
        options = {"pruner": "median", "seed": 3, **more}
        opened.append(Study(tmp_path, SOME, BASELINE, **options))
        return opened[-1]

    yield open_it
    for one in opened:
        one.close()


def score_of(trial: Trial) -> float:
    return 1 - abs(trial.values["learning_rate"] - 0.005)


def test_the_first_trial_is_what_would_be_trained_anyway(study: Callable[..., Study]) -> None:
    assert study().begin() == Trial(0, BASELINE)


def test_values_lie_in_their_ranges_and_only_matter_where_they_matter(study: Callable[..., Study]) -> None:
    one, losses = study(), set()
    for index in range(12):
        trial = one.begin()
        assert trial.index == index
        assert 1e-4 <= trial.values["learning_rate"] <= 3e-2
        losses.add(trial.values["loss"])
        assert ("box" in trial.values) == (trial.values["loss"] == "darknet")
        one.end(COMPLETE, score_of(trial))
    assert losses == {"darknet", "scaled", "simota"}


def test_how_trials_ended_is_kept(study: Callable[..., Study]) -> None:
    one = study()
    wanted = []
    for outcome, score in ((COMPLETE, 0.5), (DIVERGED, None), (PRUNED, 0.125)):
        trial = one.begin()
        if score is not None:
            one.hopeless(1, score)
        one.end(outcome, score)
        wanted.append(Trial(trial.index, trial.values, outcome, score))
    assert one.ended() == study().ended() == wanted


def test_a_stopped_search_proposes_what_an_unbroken_one_does(tmp_path: Path, study: Callable[..., Study]) -> None:
    (tmp_path / "other").mkdir()
    unbroken = Study(tmp_path / "other", SOME, BASELINE, pruner="median", seed=3)
    wanted = []
    for _ in range(6):
        wanted.append(unbroken.begin())
        unbroken.end(COMPLETE, score_of(wanted[-1]))
    unbroken.close()
    found = []
    for stop in (True, True, False, True, True, False, True, False, False):  # stopped twice in the first, in the second
        one = study()
        trial = one.begin()
        if stop:
            continue  # as a killed process leaves it
        one.end(COMPLETE, score_of(trial))
        found.append(trial)
    assert found == wanted[:4]
    assert [trial.index for trial in study().ended()] == [0, 1, 2, 3]


def test_other_seeds_propose_other_values(tmp_path: Path) -> None:
    found = set()
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        one = Study(tmp_path / str(seed), SOME, BASELINE, pruner="none", seed=seed)
        one.begin()
        one.end(COMPLETE, 0.5)
        found.add(one.begin().values["learning_rate"])
        one.close()
    assert len(found) == 2


@pytest.mark.parametrize(("pruner", "given_up"), [("median", True), ("halving", True), ("none", False)])
def test_a_trial_far_below_the_others_is_given_up(study: Callable[..., Study], pruner: str, given_up: bool) -> None:
    one = study(pruner=pruner)
    for _ in range(4):
        one.begin()
        assert not any(one.hopeless(evaluation, 0.5 + 0.01 * evaluation) for evaluation in range(1, 10))
        one.end(COMPLETE, 0.6)
    one.begin()
    assert any(one.hopeless(evaluation, 0.01) for evaluation in range(1, 10)) == given_up


def test_the_median_gives_a_trial_some_evaluations_first(study: Callable[..., Study]) -> None:
    one = study()
    for _ in range(4):
        one.begin()
        for evaluation in range(1, 6):
            one.hopeless(evaluation, 0.5)
        one.end(COMPLETE, 0.5)
    one.begin()
    assert [one.hopeless(evaluation, 0.01) for evaluation in (1, 2, 3, 4)] == [False, False, True, True]


def test_an_unknown_pruner(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Study: 'mean' \(wanted one of median, halving, none\)"):
        Study(tmp_path, SOME, BASELINE, pruner="mean", seed=0)


def test_without_optuna(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(EnvironmentFault, match="--tune: Optuna is not installed; pip install 'optuna>=5,<6'"):
        Study(tmp_path, SOME, BASELINE, pruner="median", seed=0)
