"""What a search found: how much each parameter mattered, a table, a csv file."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from training.search.space import Parameter, Value
from training.search.study import COMPLETE, DIVERGED, Trial
from utils.atomic import atomic_write

_SHOWN = 10  # trials in the printed table
_LEAST = 4  # trials before an influence says anything


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """The trials with a score, best first; those that ran to their end before those that were given up."""
    scored = [trial for trial in trials if trial.score is not None]
    return sorted(scored, key=lambda trial: (trial.outcome == COMPLETE, trial.score), reverse=True)


def influence(parameter: Parameter, trials: Sequence[Trial]) -> float | None:
    """How far the ranks of the scores go with a parameter, from 0 to 1; None where that cannot be said.

    For numbers it is the size of Spearman's rank correlation, so that a best value in the middle of the range shows
    little; for choices the square root of the part of the variance that lies between them (eta).
    """
    scored = [trial for trial in trials if trial.score is not None and parameter.name in trial.values]
    values = [trial.values[parameter.name] for trial in scored]
    scores = _ranks(np.array([trial.score for trial in scored]))
    if len(scored) < _LEAST or len(set(values)) < 2 or np.ptp(scores) == 0:
        return None
    if not parameter.choices:
        return float(abs(np.corrcoef(_ranks(np.array(values, dtype=float)), scores)[0, 1]))
    groups = [scores[[value == choice for value in values]] for choice in sorted(set(map(str, values)))]
    between = sum(len(group) * (group.mean() - scores.mean()) ** 2 for group in groups)
    return float(np.sqrt(between / ((scores - scores.mean()) ** 2).sum()))


def search_table(space: Sequence[Parameter], trials: Sequence[Trial], title: str) -> Iterator[str]:
    """The lines for people: the best trials, and the parameters by their influence."""
    best_first = ranked(trials)
    yield f"{'trial':>5} {title:>7}  {'':9} values"
    for trial in best_first[:_SHOWN]:
        yield f"{trial.index + 1:5} {trial.score:7.3f}  {trial.outcome:9} {values_text(trial)}"
    outcomes = [trial.outcome for trial in trials]
    if DIVERGED in outcomes:
        yield f"{outcomes.count(DIVERGED)} of {len(trials)} trials diverged"
    known = [(found, parameter.name) for parameter in space if (found := influence(parameter, trials)) is not None]
    if known:
        yield f"influence on {title}: " + ", ".join(
            f"{name} {found:.2f}" for found, name in sorted(known, reverse=True)
        )


def values_text(trial: Trial) -> str:
    """The values of a trial on one line."""
    return "  ".join(f"{name} {_short(value)}" for name, value in trial.values.items())


def write_csv(space: Sequence[Parameter], trials: Sequence[Trial], path: Path) -> None:
    """A line for each trial: its number, outcome, score and values; empty where a parameter took no part."""
    names = [parameter.name for parameter in space]
    with atomic_write(path, binary=False) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["trial", "outcome", "score", *names])
        for trial in trials:
            score = "" if trial.score is None else f"{trial.score:.6g}"
            values = [_short(trial.values[name], 6) if name in trial.values else "" for name in names]
            writer.writerow([trial.index + 1, trial.outcome, score, *values])


def _short(value: Value, digits: int = 3) -> str:
    return value if isinstance(value, str) else f"{value:.{digits}g}"


def _ranks(values: np.ndarray) -> np.ndarray:
    """The rank of each value; equal ones share their mean rank."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]
