"""training.search.report and training.search.plot: the order of trials, influences by hand, table, csv and picture."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest

from training.search.plot import plot_search
from training.search.report import influence, ranked, search_table, write_csv
from training.search.space import SPACE
from training.search.study import COMPLETE, DIVERGED, PRUNED, Trial
from utils.image import read_image

BY_NAME = {parameter.name: parameter for parameter in SPACE}
RATE, LOSS, BOX = (BY_NAME[name] for name in ("learning_rate", "loss", "box"))
SOME = (RATE, LOSS, BOX)


def trial(index: int, rate: float, loss: str, score: float | None, outcome: str = COMPLETE) -> Trial:
    values = {"learning_rate": rate, "loss": loss} | ({"box": 0.1 * (index + 1)} if loss == "darknet" else {})
    return Trial(index, values, outcome, score)


TRIALS = [
    trial(0, 0.001, "darknet", 0.5),
    trial(1, 0.002, "scaled", 0.7),
    trial(2, 0.030, "darknet", None, DIVERGED),
    trial(3, 0.004, "darknet", 0.9, PRUNED),
    trial(4, 0.003, "scaled", 0.8),
]


def test_a_trial_that_was_given_up_is_never_the_best() -> None:
    assert [one.index for one in ranked(TRIALS)] == [4, 1, 0, 3]
    assert ranked([TRIALS[2]]) == []


def test_influence_of_a_number_is_the_rank_correlation() -> None:
    # rates 1, 2, 4, 3 thousandths; scores .5, .7, .9, .8: the same order
    assert influence(RATE, TRIALS) == pytest.approx(1)
    swapped = [*TRIALS[:3], trial(3, 0.0005, "darknet", 0.9), TRIALS[4]]
    # ranks of the rates 2 3 1 4, of the scores 1 2 4 3: differences 1 1 -3 1, 1 - 6 * 12 / (4 * 15)
    assert influence(RATE, swapped) == pytest.approx(abs(1 - 6 * 12 / 60))


def test_equal_values_share_their_rank() -> None:
    trials = [trial(index, rate, "scaled", score) for index, (rate, score) in
              enumerate([(0.001, 0.1), (0.001, 0.2), (0.002, 0.3), (0.002, 0.4)])]  # fmt: skip
    # ranks 1.5 1.5 3.5 3.5 and 1 2 3 4
    assert influence(RATE, trials) == pytest.approx(4 / math.sqrt(4 * 5))


def test_influence_of_a_choice_is_what_lies_between_its_groups() -> None:
    # ranks: darknet 1 and 4, scaled 2 and 3: both mean 2.5
    assert influence(LOSS, TRIALS) == pytest.approx(0)
    apart = [trial(index, 0.001, loss, score) for index, (loss, score) in
             enumerate([("darknet", 0.1), ("darknet", 0.2), ("scaled", 0.3), ("scaled", 0.4)])]  # fmt: skip
    # means 1.5 and 3.5: 4 * 1 of the variance 5
    assert influence(LOSS, apart) == pytest.approx(math.sqrt(4 / 5))


def test_where_nothing_can_be_said() -> None:
    assert influence(BOX, TRIALS) is None  # two trials with a score
    assert influence(RATE, [trial(i, 0.001, "scaled", 0.1 * i) for i in range(5)]) is None
    assert influence(RATE, [trial(i, 0.001 * (i + 1), "scaled", 0.5) for i in range(5)]) is None


def test_the_table() -> None:
    lines = list(search_table(SOME, TRIALS, "AP50"))
    assert lines[0].split() == ["trial", "AP50", "values"]
    assert lines[1] == "    5   0.800  complete  learning_rate 0.003  loss scaled"
    assert lines[4].split()[:3] == ["4", "0.900", "pruned"]
    assert lines[5:] == ["1 of 5 trials diverged", "influence on AP50: learning_rate 1.00, loss 0.00"]


def test_the_csv_file(tmp_path: Path) -> None:
    write_csv(SOME, TRIALS, tmp_path / "search.csv")
    with (tmp_path / "search.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["outcome"] for row in rows] == ["complete", "complete", "diverged", "pruned", "complete"]
    assert rows[1] == {
        "trial": "2", "outcome": "complete", "score": "0.7", "learning_rate": "0.002", "loss": "scaled", "box": ""
    }  # fmt: skip
    assert rows[2]["score"] == "" and rows[3]["box"] == "0.4"


def test_the_picture_shows_the_best_in_red(tmp_path: Path) -> None:
    plot_search(SOME, TRIALS, tmp_path / "search.png", "AP50")
    image = read_image(tmp_path / "search.png").astype(int)
    counts = {
        colour: int((np.abs(image - np.array(rgb)).sum(axis=2) < 30).sum())
        for colour, rgb in {"red": (214, 39, 40), "blue": (31, 119, 180), "grey": (187, 187, 187)}.items()
    }
    assert all(count > 20 for count in counts.values()), counts
    assert counts["blue"] > 1.3 * counts["red"]  # two others that ran to their end
